//! What comes back to the sessions of a link: answers of the store and the verifier, and events from
//! elsewhere in the cluster.

use clarion_protocol::Code;
use clarion_protocol::terminal::{NodeFrame, SessionNumber};
use clarion_storage::{SubscribeOutcome, UnsubscribeOutcome};
use tokio::io::{AsyncRead, AsyncWrite};

use super::host::{self, Host, Stepped};
use super::inbox::{Answer, Grant, LinkEvent, Refused, SessionEvent};
use super::{Link, Seat, Stage, encode};

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Link<S> {
    pub(super) fn answer(&mut self, session: SessionNumber, answer: Answer, out: &mut Vec<u8>) {
        match answer {
            Answer::Opened(answer) => self.opened(session, answer, out),
            Answer::Subscribed { id, topic, outcome } => {
                self.with_host(session, out, |host, around| {
                    host.answered(id);
                    let own = host.take_own(&topic);
                    match outcome {
                        Ok(SubscribeOutcome::Joined(log) | SubscribeOutcome::AlreadyIn(log)) => {
                            return host.join(log, own, id, around);
                        }
                        Ok(SubscribeOutcome::Banned) => {
                            host.error(id, Code::TopicBanned, None, around);
                        }
                        Ok(SubscribeOutcome::TooMany) => {
                            host.error(id, Code::TooManyTopics, None, around);
                        }
                        Err(_) => host.error(id, Code::StoreUnavailable, None, around),
                    }
                    Stepped::On
                });
            }
            Answer::Unsubscribed { id, topic, outcome } => {
                self.with_host(session, out, |host, around| {
                    host.answered(id);
                    match outcome {
                        Ok(UnsubscribeOutcome::Left | UnsubscribeOutcome::NotIn) => {
                            host.leave(topic, id, around);
                        }
                        Err(_) => host.error(id, Code::StoreUnavailable, None, around),
                    }
                    Stepped::On
                });
            }
            Answer::Refreshed(Ok(identity)) => self.with_host(session, out, |host, around| {
                host.answered(Some(host::REFRESH));
                if !identity.is_same(&host.identity) {
                    return Stepped::Close(Code::RefreshMismatch, "");
                }
                let exp = identity.exp_s;
                host.refreshed(identity);
                encode::frame(around.out, &NodeFrame::Refreshed { s: host.number, exp });
                Stepped::On
            }),
            Answer::Refreshed(Err(refused)) => {
                self.with_host(session, out, |_, _| Stepped::Close(refused.code, ""));
            }
            Answer::Closed { .. } if self.closing.is_some() => {} // nothing follows a close frame
            Answer::Closed { number } => self.closed(number, Code::SessionClosed, None, out),
        }
    }

    pub(super) fn opened(
        &mut self,
        session: SessionNumber,
        answer: Result<Box<Grant>, Refused>,
        out: &mut Vec<u8>,
    ) {
        let Some(at) = self.seat(session) else { return };
        if matches!(self.sessions[at].stage, Stage::Live(_)) {
            return;
        }
        let grant = match answer {
            Ok(grant) => *grant,
            Err(refused) => return self.close_session(session, refused.code, "", out),
        };
        let number = self.sessions[at].number;
        let nothing = Stage::Opening(Vec::new());
        let (host, stepped) = match std::mem::replace(&mut self.sessions[at].stage, nothing) {
            Stage::Opening(own) => {
                if let Some(heartbeat_ms) = grant.opened.heartbeat_ms {
                    self.start_heartbeat(heartbeat_ms);
                }
                Host::begin((number, session), grant, &own, &mut self.around(out))
            }
            Stage::Reopening(former) | Stage::Live(former) => {
                Host::rebuild(*former, session, grant, &mut self.around(out))
            }
        };
        self.sessions[at].stage = Stage::Live(Box::new(host));
        self.after(session, stepped, out);
    }

    pub(super) fn session_event(
        &mut self,
        session: SessionNumber,
        event: SessionEvent,
        out: &mut Vec<u8>,
    ) {
        self.with_host(session, out, |host, around| match event {
            SessionEvent::NewerGeneration(newer) if newer > host.generation => {
                Stepped::Close(Code::Replaced, "")
            }
            SessionEvent::NewerGeneration(_) => Stepped::On,
            SessionEvent::Stale => Stepped::Close(Code::Replaced, ""),
            SessionEvent::AboveHead => Stepped::Close(Code::StoreAway, "history was lost"),
            SessionEvent::Kicked => Stepped::Close(Code::Kicked, ""),
            SessionEvent::FlushCursors => {
                around.shard.flush_soon();
                Stepped::On
            }
            SessionEvent::Reload => Stepped::On,
        });
        if matches!(event, SessionEvent::Reload) {
            self.reopen(session, out);
        }
    }

    pub(super) fn link_event(&mut self, event: LinkEvent, out: &mut Vec<u8>) {
        match event {
            LinkEvent::Tick => self.tick(out),
            LinkEvent::Close(code) => {
                self.close_link(code, out);
                if code == Code::HeartbeatTimeout {
                    // Nobody seems to listen: no time is spent on a farewell.
                    self.ended.get_or_insert(code.as_str());
                }
            }
            LinkEvent::Goaway { .. } if self.closing.is_some() => {}
            LinkEvent::Goaway { after_ms } => {
                encode::frame(
                    out,
                    &NodeFrame::Goaway { s: 0, after_ms, to: self.context.elsewhere() },
                );
            }
            LinkEvent::RelayRestarted { relay } => {
                let keys: Vec<_> = self.sessions.iter().map(|seat| seat.key).collect();
                for key in keys {
                    self.with_host(key, out, |host, around| host.register_again(relay, around));
                }
            }
            LinkEvent::ProductMoved if self.closing.is_some() => {}
            LinkEvent::ProductMoved => {
                let moved = |seat: &&Seat| match &seat.stage {
                    Stage::Live(host) => self.context.is_elsewhere(&host.identity.product),
                    Stage::Opening(_) | Stage::Reopening(_) => false, // found by the next look
                };
                let keys: Vec<_> =
                    self.sessions.iter().filter(moved).map(|seat| seat.key).collect();
                for key in keys {
                    self.close_session(key, Code::WrongGroup, "", out);
                }
            }
        }
    }
}
