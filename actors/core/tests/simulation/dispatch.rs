//! What becomes of an event: to whom it goes, and what is done there.

use crate::cursors::FLUSH_MS;
use crate::event::{Event, Frame, Message, Purpose, Timer, trace};
use crate::node::{State, each};
use crate::relay::Found;
use crate::store::{Answer, AppendAnswer, Call};
use crate::world::{BEGIN_MS, World};

impl World {
    // Answers of the store.

    pub fn answered(&mut self, n: usize, id: u64, answer: Option<Answer>, sent: bool) {
        let Some(purpose) = self.nodes[n].calls.remove(&id) else { return };
        match (purpose, answer) {
            (Purpose::Append { log, requests, not_after_ms }, answer) => {
                let none = if sent { AppendAnswer::Unknown } else { AppendAnswer::Unavailable };
                let results = match answer {
                    Some(Answer::Appended(results)) => results,
                    _ => vec![none; requests.len()],
                };
                self.appended(n, log, requests, not_after_ms, &results);
            }
            (Purpose::Read { session, alias }, answer) => {
                self.page_answered(n, session, alias, answer);
            }
            (Purpose::Heads { logs, found }, Some(Answer::Heads(heads))) => {
                let heads: Vec<_> = logs.into_iter().zip(heads).collect();
                self.heads_found(n, &heads, found);
            }
            (Purpose::Heads { logs, .. }, _) => {
                // With the next request or tidying.
                logs.into_iter().for_each(|log| self.nodes[n].compare_failed |= 1 << log);
                self.disturbed_for(2000);
            }
            (Purpose::Confirm { log }, Some(Answer::Heads(heads))) => {
                self.confirm_answered(n, log, heads.first().copied());
            }
            (Purpose::Confirm { log }, _) => {
                self.disturbed_for(2000);
                self.confirm_answered(n, log, None);
            }
            (Purpose::Open { terminal, link }, Some(Answer::Opened(opened))) => {
                self.begin_session(n, terminal, link, &opened);
            }
            (Purpose::Open { terminal, link }, _) => {
                self.tell_terminal(terminal, link, Frame::Closed)
            }
            (Purpose::Rebuild { session }, Some(Answer::Opened(opened))) => {
                self.rebuild_session(n, session, &opened);
            }
            (Purpose::Rebuild { session }, _) => self.end_session(n, session, true),
            (Purpose::Save { saves }, Some(Answer::Saved(answers))) => {
                self.saved(n, saves, Some(answers));
            }
            (Purpose::Save { saves }, _) => self.saved(n, saves, None),
            (Purpose::Verify { session }, Some(Answer::Verified(false))) => self.stale(n, session),
            (Purpose::Claim { push, count }, Some(Answer::Claimed(claimed))) => {
                self.push_claimed(n, push, count, Some(claimed));
            }
            (Purpose::Claim { push, count }, _) => self.push_claimed(n, push, count, None),
            (Purpose::Verify { .. } | Purpose::Nothing, _) => {}
        }
    }

    // Events.

    pub fn handle(&mut self, event: Event) {
        if self.settings.trace {
            trace(self.now_ms - BEGIN_MS, &event);
        }
        match event {
            Event::Peer { to, .. } | Event::LinkEnded { node: to, .. } => {
                self.at_node(to, None, event);
            }
            Event::Timer { node, boot, .. }
            | Event::FromStore { node, boot, .. }
            | Event::ToNode { node, boot, .. }
            | Event::ToDoor { node, boot, .. } => self.at_node(node, Some(boot), event),
            Event::ToStore { node, boot, id, term, call } => {
                if term == self.term && !self.store.down {
                    self.at_store(node, boot, id, call);
                }
            }
            Event::Confirmed { term, up_to } => {
                if term == self.term {
                    if self.lag_until_ms > self.now_ms {
                        let pause_ms = self.lag_until_ms - self.now_ms;
                        self.after(pause_ms, event);
                    } else {
                        self.store_confirmed(up_to);
                    }
                }
            }
            Event::Promote { kept } => {
                let lost = self.store.fail_over(kept);
                self.store.down = false;
                self.audit_lost(&lost);
                self.disturbed_for(16_000);
            }
            Event::ToTerminal { terminal, link, frame } => self.at_terminal(terminal, link, frame),
            Event::Connect { terminal } => self.connect(terminal),
            Event::Acks { terminal } => self.send_acks(terminal),
            Event::Speaks { terminal } => self.speaks(terminal),
            Event::GivesUp { terminal, link, opened } => self.gives_up(terminal, link, opened),
            Event::LinkLost { terminal, link } => self.link_lost(terminal, link),
            Event::ToClient { push, count, answer } => self.client_answered(push, count, answer),
            Event::ClientAgain { push } => self.client_pushes(push),
            Event::Wake { node, boot } => {
                if self.nodes[node].boot == boot {
                    self.wake(node);
                }
            }
            Event::Start { node } => {
                if self.nodes[node].state == State::Down {
                    self.restart(node);
                }
            }
            Event::Uncut { from, to } => self.uncut(from, to),
            Event::Audit => {
                self.audit_calm();
                self.after(500, Event::Audit);
            }
        }
    }

    pub fn at_node(&mut self, n: usize, boot: Option<u64>, event: Event) {
        if boot.is_some_and(|boot| boot != self.nodes[n].boot) {
            return;
        }
        match self.nodes[n].state {
            State::Down => {}
            State::Hung => self.nodes[n].parked.push_back(event),
            State::Up => self.at_running_node(n, event),
        }
    }

    pub fn at_running_node(&mut self, n: usize, event: Event) {
        match event {
            Event::Peer { from, session, message, .. } => {
                let linked = self.nodes[n].peers[from].as_mut();
                if let Some(peer) = linked.filter(|peer| peer.session == session) {
                    peer.suspect_until_ms = 0;
                    self.received(n, from, message);
                }
            }
            Event::LinkEnded { peer, session, .. } => {
                let linked = self.nodes[n].peers[peer].as_ref();
                if linked.is_some_and(|linked| linked.session == session) {
                    self.link_down(n, peer, None);
                }
            }
            Event::Timer { timer, .. } => self.timer_due(n, timer),
            Event::FromStore { id, answer, sent, .. } => self.answered(n, id, answer, sent),
            Event::ToNode { terminal, link, frame, .. } => {
                self.frame_at_node(n, terminal, link, frame)
            }
            Event::ToDoor { push, count, .. } => self.push_at_door(n, push, count),
            _ => {}
        }
    }

    pub fn received(&mut self, n: usize, from: usize, message: Message) {
        match message {
            Message::Append { request, log, entries } => self.serve(n, from, log, request, entries),
            Message::Appended { request, log, results } => {
                self.forward_answered(n, log, request, Some(results));
            }
            Message::Hint { log, batch, listed } => {
                self.relay_hint(n, log, &batch, listed.then_some(from));
            }
            Message::Grew { log, head } => self.grew(n, log, head),
            Message::Heads { log, head } => self.heads_told(n, log, head),
            Message::Confirm { log, head } => self.confirmed(n, log, head, Some(from)),
            Message::Interest { logs, since_ms } => {
                for (log, generation) in logs {
                    self.interested(n, from, log, since_ms, generation);
                }
            }
            Message::NoInterest { log } => self.nodes[n].owned[log].nodes &= !(1 << from),
            Message::Complete { logs } => {
                each(logs).for_each(|log| self.nodes[n].complete[log] |= 1 << from);
            }
            Message::Leave { logs } => {
                self.unset_complete(n, from, logs);
                self.node_left(n, from, logs);
            }
            Message::AnnounceAgain { logs } => {
                let told = each(logs).filter(|log| self.nodes[n].target[*log] == Some(from));
                let logs = told.fold(0, |set, log| set | 1 << log);
                if logs != 0 {
                    self.announce(n, from, logs);
                }
            }
            Message::Dropped { logs } => self.compare(n, logs),
            Message::Superseded { log, generation } => self.superseded(n, log, generation),
            Message::Hello => self.compare(n, self.all_logs()),
        }
    }

    pub fn timer_due(&mut self, n: usize, timer: Timer) {
        match timer {
            Timer::Tick => self.tick(n),
            Timer::Poll => self.poll(n),
            Timer::Flush => {
                self.flush(n);
                // `RelayState::tidy`: what could not be compared.
                if self.nodes[n].compare_failed != 0 {
                    self.compare(n, 0);
                }
                self.timer(n, FLUSH_MS, Timer::Flush);
            }
            Timer::CheckHeads => self.check_heads(n),
            Timer::HeadsAhead { heads } => self.heads_found(n, &heads, Found::Check { sure: true }),
            Timer::Compare { logs } => self.compare(n, logs),
            Timer::ConfirmAgain { log } => {
                self.call(n, Call::Heads { logs: vec![log] }, Purpose::Confirm { log });
            }
            Timer::Intake { log } => self.intake_again(n, log),
            Timer::Carry { log } => self.carry(n, log),
            Timer::Tried { log, owner } => {
                let batch = std::mem::take(&mut self.nodes[n].forward[log].batch);
                self.tried(n, log, owner, batch, false, true);
            }
            Timer::Late { log, request } => self.forward_late(n, log, request),
            Timer::Session { session } => self.tick_session(n, session),
            Timer::Verify { session } => self.verify(n, session),
            Timer::Call { id } => {
                if self.nodes[n].calls.contains_key(&id) {
                    self.stalls.remove(&n);
                    self.answered(n, id, None, true);
                }
            }
            Timer::Push { push, count } => {
                self.push_answered(n, push, count, AppendAnswer::Unknown)
            }
        }
    }
}
