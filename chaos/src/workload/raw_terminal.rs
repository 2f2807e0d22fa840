//! A terminal written from the specification: a WebSocket and the types of the protocol, nothing of
//! the SDK. One kind keeps its cursors in memory and sends them, the other leaves that to the node.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use clarion_protocol::terminal::{
    Cursor, Deliver, GapReason, LINK_PATH, LogAlias, LogPosition, NodeFrame, Open, Opened, Payload,
    SUBPROTOCOL_JSON, TerminalFrame,
};
use clarion_protocol::{Epoch, FrameError, LogName, Offset, ProductId, TopicName};
use fastrand::Rng;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, interval, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::doors::Door;
use super::terminal::{Flip, Given, Gone, TerminalTask, is_for_now};
use super::{flip_pause, until};
use crate::Failure;
use crate::history::{Client, Ending, Event, Name};

/// The only session of a link.
const SESSION: u32 = 1;
/// Acknowledgements are collected for this long.
const ACK_EVERY: Duration = Duration::from_millis(100);
/// The longest pause before another attempt.
const RETRY_MS_MAX: u64 = 300;
/// Codes from here on say: do not come again.
const FINAL_CODES: u16 = 4100;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(super) async fn run(task: TerminalTask) -> Result<(), Failure> {
    let rng = Rng::with_seed(task.plan.seed);
    let product = ProductId::new(&task.plan.product).map_err(Failure::of("the product"))?;
    let topics = task.plan.topics.iter().map(|topic| TopicName::new(topic));
    let topics = topics.collect::<Result<Vec<_>, _>>().map_err(Failure::of("a topic"))?;
    let flips = task.plan.flips.as_deref().map(TopicName::new).transpose();
    let flips = flips.map_err(Failure::of("a topic"))?;
    let cursors = BTreeMap::new();
    let (flip, asked) = (Flip::Left, 0);
    let mut terminal =
        Raw { task, product, topics, cursors, rng, sessions: 0, links: 0, flips, flip, asked };
    let mut is_broken = false;
    loop {
        if !*terminal.task.wanted.borrow() {
            if std::mem::take(&mut is_broken) {
                // Its link was gone when it was told to go: from now on it is away because it wants to.
                terminal.task.left(terminal.sessions, Ending::Dropped);
            }
            terminal.task.presence.set(false);
        }
        if !until(&mut terminal.task.wanted, true).await {
            return Ok(());
        }
        match terminal.link().await {
            Ok(Some(how)) => {
                is_broken = how == Ending::Broken;
                terminal.task.left(terminal.sessions, how);
            }
            Ok(None) => {}
            Err(Over) => return Ok(()),
        }
        if *terminal.task.wanted.borrow() {
            sleep(Duration::from_millis(terminal.rng.u64(..RETRY_MS_MAX))).await;
        }
    }
}

/// The terminal cannot go on; why is in the history.
struct Over;

struct Raw {
    task: TerminalTask,
    product: ProductId,
    topics: Vec<TopicName>,
    cursors: BTreeMap<LogName, Cursor>,
    rng: Rng,
    sessions: u64,
    /// Attempts to make a link: each goes to the next door.
    links: usize,
    /// The topic that it joins and leaves, how it stands with that, and its latest request.
    flips: Option<TopicName>,
    flip: Flip,
    asked: u64,
}

/// A session, and what it has not acknowledged yet.
struct Session {
    socket: Socket,
    logs: HashMap<LogAlias, (LogName, Epoch)>,
    due: BTreeMap<LogAlias, Offset>,
    beat: Interval,
    /// When the node was last heard.
    heard: Instant,
}

impl Raw {
    /// One link from start to end; says how its session ended, if there was one.
    async fn link(&mut self) -> Result<Option<Ending>, Over> {
        let sent: Vec<_> = match self.task.plan.client {
            Client::RawCursors => self.cursors.iter().map(|(l, c)| (l.clone(), *c)).collect(),
            Client::RawPlain | Client::Sdk => Vec::new(),
        };
        self.task.joins();
        self.links += 1;
        let patience = self.task.doors.patience.connect;
        let opening = timeout(patience, self.open(sent.clone()));
        let Ok(Ok((socket, opened))) = opening.await else { return Ok(None) };
        let Some(opened) = opened else { return Ok(None) };
        self.sessions += 1;
        let sent = sent.into_iter().map(|(log, Cursor(_, offset))| (log, offset)).collect();
        let mut session = self.opened(socket, opened, sent);
        self.task.presence.set(true);
        let ended = self.receive(&mut session).await?;
        if let Some(how) = ended {
            return Ok(Some(how));
        }
        if self.rng.bool() {
            // As a phone does that loses its network.
            return Ok(Some(Ending::Dropped));
        }
        Ok(Some(self.close(session).await))
    }

    async fn open(
        &self,
        cursors: Vec<(LogName, Cursor)>,
    ) -> Result<(Socket, Option<Opened>), tungstenite::Error> {
        let door = self.door().map_or("", |door| door.url.as_str());
        let mut request = format!("{door}{LINK_PATH}").into_client_request()?;
        let offered = HeaderValue::from_static(SUBPROTOCOL_JSON);
        request.headers_mut().insert("Sec-WebSocket-Protocol", offered);
        let (mut socket, _) = connect_async(request).await?;
        let open = TerminalFrame::Open(Open {
            s: SESSION,
            product: self.product.clone(),
            token: self.task.plan.token.clone(),
            agent: Some("chaos".to_owned()),
            cursors,
            topics: self.topics.clone(),
        });
        socket.send(Message::text(open.to_json())).await?;
        while let Some(message) = socket.next().await {
            let Message::Text(text) = message? else { continue };
            match NodeFrame::parse(&text) {
                Ok(NodeFrame::Opened(opened)) => return Ok((socket, Some(opened))),
                Ok(NodeFrame::Closed { code, reason, .. }) if code >= FINAL_CODES => {
                    self.task.trouble(format!("not opened: {code} {reason}"));
                    return Ok((socket, None));
                }
                _ => {}
            }
        }
        Ok((socket, None))
    }

    /// Where it is connected to, or connects next.
    fn door(&self) -> Option<&Door> {
        self.task.doors.terminals(self.task.plan.first_door + self.links)
    }

    fn opened(&self, socket: Socket, opened: Opened, sent: Vec<(LogName, Offset)>) -> Session {
        let beat = interval(Duration::from_millis(opened.heartbeat_ms.max(2)) / 2);
        let (logs, due, heard) = (HashMap::new(), BTreeMap::new(), Instant::now());
        let mut session = Session { socket, logs, due, beat, heard };
        self.learn_all(&mut session, opened, sent);
        session
    }

    fn learn_all(&self, session: &mut Session, opened: Opened, sent: Vec<(LogName, Offset)>) {
        let door = self.door().map_or_else(|| "".into(), |door| Name::clone(&door.name));
        self.task.teller.add(Event::Opened {
            who: self.task.plan.who.clone(),
            session: self.sessions,
            generation: opened.generation,
            sent,
            positions: opened.logs.iter().map(|log| (log.log.clone(), log.offset)).collect(),
            door,
            node: opened.node.clone().into(),
        });
        for (topic, code) in &opened.refused {
            self.task.trouble(format!("{topic} was refused: {code}"));
        }
        for log in opened.logs {
            self.learn(session, log);
        }
    }

    fn learn(&self, session: &mut Session, log: LogPosition) {
        session.logs.insert(log.l, (log.log.clone(), log.epoch));
        self.task.joined(log.log);
    }

    /// Handles frames until the link ends, or the terminal is to go offline (`None`).
    async fn receive(&mut self, session: &mut Session) -> Result<Option<Ending>, Over> {
        let mut acks = interval(ACK_EVERY);
        let mut wanted = self.task.wanted.clone();
        let mut flip_at = Instant::now() + flip_pause(&mut self.rng);
        loop {
            tokio::select! {
                message = session.socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        session.heard = Instant::now();
                        if let Some(how) = self.frame(session, &text)? {
                            return Ok(Some(how));
                        }
                    }
                    Some(Ok(Message::Close(frame))) => {
                        return self.ended(frame.map_or(0, |frame| frame.code.into()), "");
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Ok(Some(Ending::Broken)),
                },
                () = sleep_until(flip_at), if self.flips.is_some() => {
                    flip_at = Instant::now() + flip_pause(&mut self.rng);
                    if self.flip(session).await.is_err() {
                        return Ok(Some(Ending::Broken));
                    }
                }
                _ = acks.tick() => if self.acknowledge(session).await.is_err() {
                    return Ok(Some(Ending::Broken));
                },
                _ = session.beat.tick() => {
                    let quiet = session.beat.period() * 2 + self.task.doors.patience.silence;
                    if session.heard.elapsed() > quiet {
                        return Ok(Some(Ending::Broken));
                    }
                    let ping = TerminalFrame::Ping { s: 0 }.to_json();
                    if session.socket.send(Message::text(ping)).await.is_err() {
                        return Ok(Some(Ending::Broken));
                    }
                }
                _ = until(&mut wanted, false) => return Ok(None),
            }
        }
    }

    fn frame(&mut self, session: &mut Session, text: &str) -> Result<Option<Ending>, Over> {
        match NodeFrame::parse(text) {
            Ok(NodeFrame::Deliver(deliver)) => self.deliver(session, &deliver),
            Ok(NodeFrame::Subscribed { log, id, .. }) => {
                self.learn(session, log);
                self.flipped(id);
            }
            Ok(NodeFrame::Unsubscribed { id, .. }) => self.flipped(id),
            Ok(NodeFrame::Closed { code, reason, .. }) => return self.ended(code, &reason),
            Ok(NodeFrame::Gap { l, epoch, from, to, reason, .. }) => {
                self.gap(session, l, (epoch, from, to), reason);
            }
            // A request that cannot be answered just now: the next turn makes an end of it.
            Ok(NodeFrame::Error { code, .. }) if is_for_now(code) => {}
            Ok(error @ NodeFrame::Error { .. }) => self.task.trouble(format!("{error:?}")),
            // The session was built anew from its cursors, after a panic inside it.
            Ok(NodeFrame::Opened(opened)) => {
                self.sessions += 1;
                session.due.clear();
                session.logs.clear();
                self.learn_all(session, opened, Vec::new());
            }
            Ok(NodeFrame::Heartbeat { ms, .. }) => {
                session.beat = interval(Duration::from_millis(ms.max(2)) / 2);
            }
            Ok(_) | Err(FrameError::UnknownType { .. }) => {}
            Err(error) => self.task.trouble(format!("{error}")),
        }
        Ok(None)
    }

    fn deliver(&mut self, session: &mut Session, deliver: &Deliver) {
        let Some((log, epoch)) = session.logs.get(&deliver.l).cloned() else {
            return self.task.trouble(format!("alias {} was never told", deliver.l));
        };
        for message in &deliver.m {
            let Ok(payload) = message.payload() else {
                self.task.trouble(format!("{} cannot be read", message.id));
                continue;
            };
            let bytes = match &payload {
                Payload::Json(text) => text.get().as_bytes(),
                Payload::Bytes { data, .. } => data,
            };
            let (offset, id, again) = (message.o, message.id, deliver.again);
            let given = Given { log: &log, offset, id, payload: bytes, again };
            self.task.delivered(self.sessions, &given);
            // What has no place in the log is not acknowledged.
            let Some(offset) = offset else { continue };
            let cursor = self.cursors.entry(log.clone()).or_insert(Cursor(epoch, offset));
            *cursor = Cursor(epoch, offset.max(cursor.1));
            let due = session.due.entry(deliver.l).or_default();
            *due = offset.max(*due);
        }
    }

    fn gap(
        &mut self,
        session: &mut Session,
        alias: LogAlias,
        (epoch, from, to): (Epoch, Offset, Offset),
        reason: GapReason,
    ) {
        let Some((log, lineage)) = session.logs.get_mut(&alias) else {
            return self.task.trouble(format!("a gap of alias {alias}, which was never told"));
        };
        *lineage = epoch;
        self.cursors.insert(log.clone(), Cursor(epoch, to));
        session.due.remove(&alias);
        let log = log.clone();
        self.task.told_gap(self.sessions, Gone { log, from, to, epoch, reason });
    }

    /// Joins its topic, or leaves it.
    async fn flip(&mut self, session: &mut Session) -> Result<(), tungstenite::Error> {
        let Some(topic) = self.flips.clone() else { return Ok(()) };
        self.flip = self.flip.next();
        self.asked += 1;
        let log = LogName::Topic(topic.clone());
        self.task.flips(self.flip, &log);
        let (s, id) = (SESSION, self.asked);
        let frame = match self.flip {
            Flip::Joining => TerminalFrame::Subscribe { s, id, topic, cursor: None },
            _ => {
                // The node forgets it, too.
                self.cursors.remove(&log);
                TerminalFrame::Unsubscribe { s, id, topic }
            }
        };
        session.socket.send(Message::text(frame.to_json())).await
    }

    /// The answer to its latest request; other changes are the back-end's.
    fn flipped(&mut self, id: Option<u64>) {
        if let Some(topic) = &self.flips
            && id == Some(self.asked)
        {
            let log = LogName::Topic(topic.clone());
            self.flip = self.flip.done();
            self.task.flips(self.flip, &log);
            if self.flip == Flip::Left {
                // What still came meanwhile.
                self.cursors.remove(&log);
            }
        }
    }

    async fn acknowledge(&self, session: &mut Session) -> Result<(), tungstenite::Error> {
        if session.due.is_empty() {
            return Ok(());
        }
        let due = std::mem::take(&mut session.due);
        for (alias, offset) in &due {
            if let Some((log, _)) = session.logs.get(alias) {
                self.task.teller.add(Event::Acknowledged {
                    who: self.task.plan.who.clone(),
                    session: self.sessions,
                    log: log.clone(),
                    offset: *offset,
                });
            }
        }
        let ack = TerminalFrame::Ack { s: SESSION, a: due.into_iter().collect() };
        session.socket.send(Message::text(ack.to_json())).await
    }

    /// Says good-bye and waits for the answer; what still arrives is handled, not acknowledged.
    async fn close(&mut self, mut session: Session) -> Ending {
        let close = TerminalFrame::Close { s: SESSION }.to_json();
        if self.acknowledge(&mut session).await.is_err()
            || session.socket.send(Message::text(close)).await.is_err()
        {
            return Ending::Broken;
        }
        let deadline = Instant::now() + self.task.doors.patience.connect;
        while let Ok(Some(Ok(message))) =
            tokio::time::timeout_at(deadline, session.socket.next()).await
        {
            let Message::Text(text) = message else { continue };
            match NodeFrame::parse(&text) {
                Ok(NodeFrame::Closed { code: 4008, .. }) => return Ending::Closed,
                Ok(NodeFrame::Deliver(deliver)) => self.deliver(&mut session, &deliver),
                _ => {}
            }
        }
        Ending::Broken
    }

    fn ended(&self, code: u16, reason: &str) -> Result<Option<Ending>, Over> {
        if (FINAL_CODES..5000).contains(&code) {
            self.task.trouble(format!("ended for good: {code} {reason}"));
            return Err(Over);
        }
        Ok(Some(Ending::Broken))
    }
}
