//! What a session does with what the node says.

use std::time::Duration;

use clarion_protocol::frame::FrameError;
use clarion_protocol::terminal::{self as frames, Deliver, NodeFrame};
use clarion_protocol::{LogName, TopicName};
use tokio::time::Instant;

use super::{Session, again};
use crate::terminal::driver::End;
use crate::terminal::event::{Event, Gap, Opened, Payload, Why};
use crate::terminal::ledger::Verdict;
use crate::terminal::shared::Queued;
use crate::terminal::{RequestError, SESSION};
use crate::wire::WireEvent;

impl Session<'_> {
    pub(super) fn on_wire(&mut self, event: WireEvent) -> Result<(), Box<End>> {
        self.heard_by = None;
        match event {
            WireEvent::Text(text) => match NodeFrame::parse(&text) {
                Ok(frame) => self.on_frame(frame),
                Err(FrameError::UnknownType { t }) => {
                    tracing::debug!(t, "ignored a frame of an unknown type");
                    Ok(())
                }
                Err(error) => again(Why::Protocol(error.to_string())),
            },
            WireEvent::Heard => Ok(()),
            _ if self.close_sent => Err(Box::new(End::Stopped)),
            WireEvent::Closed(Some((code, reason))) => {
                Err(Box::new(End::of_code(code, reason, None, None)))
            }
            WireEvent::Closed(None) => again(Why::Io("the node closed the connection".to_owned())),
            WireEvent::Failed(error) => again(Why::Io(error.to_string())),
        }
    }

    fn on_frame(&mut self, frame: NodeFrame) -> Result<(), Box<End>> {
        match frame {
            NodeFrame::Opened(opened) if opened.s == SESSION => return self.on_opened(opened),
            NodeFrame::Deliver(deliver) if deliver.s == SESSION => return self.on_deliver(deliver),
            NodeFrame::Subscribed { s: SESSION, id, log } => {
                self.shared.lock().ledger.joined(&log);
                if let LogName::Topic(topic) = log.log {
                    self.forget_topic(&topic);
                    self.driver.topics.push(topic.clone());
                    self.answer(id, Ok(()));
                    self.shared.tell(Event::Subscribed(topic));
                }
                self.flush();
            }
            NodeFrame::Unsubscribed { s: SESSION, id, topic } => {
                self.shared.lock().ledger.left(&topic);
                self.forget_topic(&topic);
                self.answer(id, Ok(()));
                self.shared.tell(Event::Unsubscribed(topic));
                self.flush();
            }
            NodeFrame::Refreshed { s: SESSION, exp } => {
                if let Some(token) = self.driver.requests.refreshed(Ok(exp)) {
                    self.driver.token = Some(token);
                }
            }
            NodeFrame::Gap { s: SESSION, l, epoch, from, to, reason } => {
                let log = self.shared.lock().ledger.gap(l, epoch, to, reason);
                if let Some(log) = log {
                    self.shared.tell(Event::Gap(Gap { log, epoch, from, to, reason }));
                }
                self.flush();
            }
            NodeFrame::Closed { s, code, reason, reconnect, detail } if s <= SESSION => {
                let end = if self.close_sent {
                    End::Stopped
                } else {
                    End::of_code(code, reason, detail, Some(reconnect))
                };
                return Err(Box::new(end));
            }
            NodeFrame::Error { s, id, code, reason, detail } if s <= SESSION => {
                self.answer(id, Err(RequestError::Refused { code, reason, detail }));
            }
            NodeFrame::Goaway { after_ms, to, .. } => {
                self.driver.route.sent_away(&to);
                self.leave_at = Some(Instant::now() + Duration::from_millis(after_ms));
            }
            NodeFrame::Heartbeat { ms, .. } => self.set_heartbeat(ms),
            NodeFrame::Pong { .. } => {}
            // A session that is not ours.
            NodeFrame::Opened(_)
            | NodeFrame::Deliver(_)
            | NodeFrame::Subscribed { .. }
            | NodeFrame::Unsubscribed { .. }
            | NodeFrame::Refreshed { .. }
            | NodeFrame::Gap { .. }
            | NodeFrame::Closed { .. }
            | NodeFrame::Error { .. } => {}
        }
        Ok(())
    }

    fn forget_topic(&mut self, topic: &TopicName) {
        self.driver.topics.retain(|known| known != topic);
    }

    fn answer(&mut self, id: Option<u64>, outcome: Result<(), RequestError>) {
        match (id, outcome) {
            (Some(id), outcome) => {
                self.driver.requests.answer(id, outcome);
            }
            (None, Err(error)) => {
                tracing::debug!(%error, "the node reports an error");
                self.driver.requests.refreshed(Err(error));
            }
            (None, Ok(())) => {}
        }
    }

    /// The ping goes out before the node would miss it, a little different for every session.
    fn set_heartbeat(&mut self, ms: u64) {
        let share = fastrand::f64().mul_add(0.1, 0.85);
        self.heartbeat = Duration::from_millis(ms.max(1000)).mul_f64(share);
    }

    fn on_opened(&mut self, opened: frames::Opened) -> Result<(), Box<End>> {
        tracing::debug!(node = opened.node, generation = opened.generation, "session is open");
        self.open = true;
        self.set_heartbeat(opened.heartbeat_ms);
        self.shared.lock().ledger.opened(&opened.logs);
        for (topic, _) in &opened.refused {
            self.forget_topic(topic);
        }
        self.shared.tell(Event::Opened(Opened {
            node: opened.node,
            generation: opened.generation,
            time_ms: opened.time_ms,
            token_ends_s: opened.exp,
            logs: opened.logs.into_iter().map(|position| position.log).collect(),
            refused: opened.refused,
        }));
        for id in self.driver.requests.unanswered() {
            self.ask(id);
        }
        self.on_wake()
    }

    fn on_deliver(&mut self, deliver: Deliver) -> Result<(), Box<End>> {
        let mut wake = None;
        let dirty = {
            let mut state = self.shared.lock();
            for message in deliver.m {
                let (id, offset) = (message.id, message.o);
                let payload = payload(message).map_err(|error| Box::new(protocol(&error)))?;
                let Some(Verdict::Show { log, target, redelivered }) =
                    state.ledger.deliver(deliver.l, offset, id)
                else {
                    continue;
                };
                let queued = Queued::Message { id, log, target, payload, redelivered };
                wake = state.push(queued).or(wake);
            }
            state.ledger.unflushed() > 0
        };
        if let Some(waker) = wake {
            waker.wake();
        }
        if dirty {
            self.flush();
        }
        Ok(())
    }
}

fn payload(message: frames::Message) -> Result<Payload, FrameError> {
    if message.b.is_none()
        && let Some(json) = message.d
    {
        return Ok(Payload::Json(json));
    }
    match message.payload()? {
        frames::Payload::Json(json) => Ok(Payload::Json(json.to_owned())),
        frames::Payload::Bytes { content_type, data } => {
            Ok(Payload::Bytes { content_type: content_type.to_owned(), data: data.into() })
        }
    }
}

fn protocol(error: &FrameError) -> End {
    End::again(Why::Protocol(error.to_string()))
}
