//! A terminal with the SDK and its cursors in a file. "Handled" is: recorded, then acknowledged. It
//! goes offline in good order, and comes back from the file.

use std::time::Duration;

use clarion_protocol::{LogName, MessageId};
use clarion_sdk::backoff::Backoff;
use clarion_sdk::{Event, Events, FileCursors, Message, Payload, Terminal};
use tokio::time::sleep;

use super::{TerminalTask, hash, key_of, until};
use crate::Failure;
use crate::history::{Ending, Event as Seen};

/// Nodes that are killed come back soon.
const RECONNECT: Backoff =
    Backoff { base: Duration::from_millis(50), cap: Duration::from_millis(500) };
/// What a slow application takes for a message.
const SLOW: Duration = Duration::from_millis(15);

pub(super) async fn run(mut task: TerminalTask) -> Result<(), Failure> {
    let mut sessions = 0;
    while until(&mut task.wanted, true).await {
        task.joins();
        let patience = task.doors.patience;
        let connector = task.doors.connector(task.first_door)?;
        let connected = Terminal::builder(task.doors.any(), &task.product, task.token.clone())
            .cursor_store(FileCursors::new(&task.cursor_file))
            .topics(&task.topics)
            .connector(connector)
            .tuning(|tuning| {
                tuning.reconnect = RECONNECT;
                tuning.connect_timeout = patience.connect;
                tuning.silence_max = patience.silence;
            })
            .connect()
            .await;
        let (handle, mut events) =
            connected.map_err(Failure::of(&format!("{} cannot start", task.who)))?;
        let goes_on = receive(&mut task, &mut events, &mut sessions).await;
        handle.close();
        // What was not handled is for the next start.
        while events.next().await.is_some() {}
        task.left(sessions, Ending::Closed);
        task.is_online.send_replace(false);
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// Handles events until the terminal is to go offline; false when it cannot go on.
async fn receive(task: &mut TerminalTask, events: &mut Events, sessions: &mut u64) -> bool {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            goes_on = until(&mut task.wanted, false) => return goes_on,
        };
        match event {
            Some(Event::Opened(opened)) => {
                *sessions += 1;
                task.history.add(Seen::Opened {
                    who: task.who.clone(),
                    session: *sessions,
                    generation: opened.generation,
                    sent: Vec::new(),
                    positions: Vec::new(),
                });
                for log in opened.logs {
                    task.joined(log);
                }
                for (topic, code) in opened.refused {
                    task.trouble(format!("{topic} was refused: {code}"));
                }
                task.is_online.send_replace(true);
            }
            Some(Event::Message(message)) => handle(task, message, *sessions).await,
            Some(Event::Subscribed(topic)) => task.joined(LogName::Topic(topic)),
            Some(Event::Disconnected { .. }) => task.left(*sessions, Ending::Broken),
            Some(Event::Gap(gap)) => task.trouble(format!("{gap:?}")),
            Some(Event::CursorsNotSaved(error)) => task.trouble(format!("cursors: {error}")),
            Some(Event::Closed(closed)) => {
                task.trouble(format!("closed: {closed}"));
                return false;
            }
            Some(_) => {}
            None => return false,
        }
    }
}

async fn handle(task: &TerminalTask, message: Message, session: u64) {
    if task.slow {
        sleep(SLOW).await;
    }
    let Some(offset) = message.offset else {
        return task.trouble(format!("{} has no offset", message.id));
    };
    match &message.payload {
        Payload::Json(text) => {
            task.delivered(session, &message.log, offset, message.id, text.get().as_bytes(), false);
        }
        Payload::Bytes { data, .. } => {
            task.delivered(session, &message.log, offset, message.id, data, false);
        }
    }
    message.ack();
}

impl TerminalTask {
    /// Records that the topics it names itself are about to be joined.
    pub(super) fn joins(&self) {
        for topic in &self.topics {
            if let Ok(log) = format!("topic:{topic}").parse() {
                self.history.add(Seen::Joining { who: self.who.clone(), log });
            }
        }
    }

    pub(super) fn joined(&self, log: LogName) {
        self.history.add(Seen::Joined { who: self.who.clone(), log });
    }

    pub(super) fn left(&self, session: u64, how: Ending) {
        self.history.add(Seen::Left { who: self.who.clone(), session, how });
    }

    pub(super) fn trouble(&self, what: String) {
        self.history.add(Seen::Trouble { who: self.who.clone(), what });
    }

    pub(super) fn delivered(
        &self,
        session: u64,
        log: &LogName,
        offset: clarion_protocol::Offset,
        id: MessageId,
        payload: &[u8],
        again: bool,
    ) {
        self.history.add(Seen::Delivered {
            who: self.who.clone(),
            session,
            log: log.clone(),
            offset,
            id,
            key: key_of(payload).into(),
            hash: hash(payload),
            again,
        });
    }
}
