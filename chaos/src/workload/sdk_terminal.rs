//! A terminal with the SDK and its cursors in a file. "Handled" is: recorded, then acknowledged. It
//! goes offline in good order, and comes back from the file, or without it.

use std::time::Duration;

use clarion_protocol::LogName;
use clarion_sdk::backoff::Backoff;
use clarion_sdk::terminal::RequestError;
use clarion_sdk::{Event, Events, FileCursors, Message, Payload, Terminal, TerminalHandle};
use fastrand::Rng;
use tokio::time::sleep;

use super::doors::Turning;
use super::terminal::{Flip, Given, Gone, TerminalTask, is_for_now, topic_log};
use super::{flip_pause, until};
use crate::Failure;
use crate::history::{Ending, Event as Seen};

/// Nodes that are killed come back soon.
const RECONNECT: Backoff =
    Backoff { base: Duration::from_millis(50), cap: Duration::from_millis(500) };
/// What a slow application takes for a message.
const SLOW: Duration = Duration::from_millis(15);

pub(super) async fn run(task: TerminalTask) -> Result<(), Failure> {
    let mut terminal = SdkTerminal {
        rng: Rng::with_seed(task.plan.seed),
        turning: task.doors.connector(task.plan.first_door)?,
        task,
        sessions: 0,
        flip: Flip::Left,
    };
    while until(&mut terminal.task.wanted.clone(), true).await {
        if !terminal.online().await? {
            break;
        }
    }
    Ok(())
}

struct SdkTerminal {
    task: TerminalTask,
    turning: std::sync::Arc<Turning>,
    rng: Rng,
    sessions: u64,
    /// The topic that it joins and leaves.
    flip: Flip,
}

impl SdkTerminal {
    /// From one start to its end; false when it is never to start again.
    async fn online(&mut self) -> Result<bool, Failure> {
        let Self { task, turning, rng, sessions, flip } = self;
        task.joins();
        let patience = task.doors.patience;
        let first = task.doors.terminals(0).map_or("", |door| door.url.as_str());
        let connected = Terminal::builder(first, &task.plan.product, task.plan.token.clone())
            .cursor_store(FileCursors::new(&task.plan.cursor_file))
            .topics(&task.plan.topics)
            .shared_connector(turning.clone())
            .tuning(|tuning| {
                tuning.reconnect = RECONNECT;
                tuning.connect_timeout = patience.connect;
                tuning.silence_max = patience.silence;
            })
            .connect()
            .await;
        let cannot = format!("{} cannot start", task.plan.who);
        let (handle, mut events) = connected.map_err(Failure::of(&cannot))?;
        let goes_on = tokio::select! {
            goes_on = receive(task, turning, &mut events, sessions) => goes_on,
            () = flips(task, &handle, flip, rng) => true,
        };
        handle.close();
        // What was not handled is for the next start.
        while events.next().await.is_some() {}
        task.left(*sessions, Ending::Closed);
        if !task.plan.keeps_cursors {
            self.lose_cursors()?;
        }
        self.task.presence.set(false);
        Ok(goes_on)
    }

    fn lose_cursors(&self) -> Result<(), Failure> {
        let plan = &self.task.plan;
        match std::fs::remove_file(&plan.cursor_file) {
            Ok(()) => self.task.teller.add(Seen::LostCursors { who: plan.who.clone() }),
            // It was given nothing to keep a cursor of.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::of("cannot delete cursors")(error)),
        }
        Ok(())
    }
}

/// Handles events until the terminal is to go offline; false when it cannot go on.
async fn receive(
    task: &TerminalTask,
    turning: &Turning,
    events: &mut Events,
    sessions: &mut u64,
) -> bool {
    let mut wanted = task.wanted.clone();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            goes_on = until(&mut wanted, false) => return goes_on,
        };
        match event {
            Some(Event::Opened(opened)) => {
                *sessions += 1;
                task.teller.add(Seen::Opened {
                    who: task.plan.who.clone(),
                    session: *sessions,
                    generation: opened.generation,
                    sent: Vec::new(),
                    positions: Vec::new(),
                    door: turning.last(),
                    node: opened.node.into(),
                });
                for log in opened.logs {
                    task.joined(log);
                }
                for (topic, code) in opened.refused {
                    task.trouble(format!("{topic} was refused: {code}"));
                }
                task.presence.set(true);
            }
            Some(Event::Message(message)) => handle(task, message, *sessions).await,
            Some(Event::Subscribed(topic)) => task.joined(LogName::Topic(topic)),
            Some(Event::Disconnected { .. }) => task.left(*sessions, Ending::Broken),
            Some(Event::Gap(gap)) => {
                let clarion_sdk::terminal::Gap { log, epoch, from, to, reason } = gap;
                task.told_gap(*sessions, Gone { log, from, to, epoch, reason });
            }
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

/// Joins and leaves its topic again and again; does not end.
async fn flips(task: &TerminalTask, handle: &TerminalHandle, flip: &mut Flip, rng: &mut Rng) {
    let Some(topic) = task.plan.flips.as_deref() else { return std::future::pending().await };
    let Some(log) = topic_log(topic) else { return std::future::pending().await };
    loop {
        sleep(flip_pause(rng)).await;
        *flip = flip.next();
        task.flips(*flip, &log);
        let answer = match *flip {
            Flip::Joining => handle.subscribe(topic).await,
            _ => handle.unsubscribe(topic).await,
        };
        match answer {
            Ok(()) => {
                *flip = flip.done();
                task.flips(*flip, &log);
            }
            // Nobody knows; the next turn makes an end of it.
            Err(RequestError::Interrupted | RequestError::Busy | RequestError::Ended) => {}
            Err(RequestError::Refused { code, .. }) if is_for_now(code) => {}
            Err(error) => {
                task.trouble(format!("{topic}: {error}"));
                return std::future::pending().await;
            }
        }
    }
}

async fn handle(task: &TerminalTask, message: Message, session: u64) {
    if task.plan.slow {
        sleep(SLOW).await;
    }
    let payload = match &message.payload {
        Payload::Json(text) => text.get().as_bytes(),
        Payload::Bytes { data, .. } => data,
    };
    let Message { id, offset, .. } = message;
    task.delivered(session, &Given { log: &message.log, offset, id, payload, again: false });
    message.ack();
}
