//! A session on its link: the pure session of the core, its identity, and the carrying out of its
//! effects. Stepped inside a panic boundary that holds no I/O: a session that panics is rebuilt in
//! place from its cursors, and its neighbours on the link do not notice.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use clarion_core::session::{Effect, Event, Session, StartLog};
use clarion_core::{Control, Entry, LogKey, LogKind};
use clarion_protocol::http::TerminalKind;
use clarion_protocol::terminal::{Cursor, LogAlias, LogPosition, NodeFrame, Opened, SessionNumber};
use clarion_protocol::{Code, Epoch, LogName, Offset, TopicName};
use clarion_storage::{CursorSave, OpenedLog, Read};

use super::context::{LinkContext, Place, Token};
use super::encode;
use super::inbox::{Grant, LinkInbox};
use crate::fault;
use crate::link_shard::LinkShardHandle;
use crate::push::{Turn, Turns};
use crate::relay::Subscriber;
use crate::tokens::Identity;

/// Requests of one session that may wait for the store.
const REQUESTS_MAX: usize = 64;
/// The `refresh` among them; terminals choose numbers below 2^53.
pub(super) const REFRESH: u64 = u64::MAX;

/// What a session needs of its link to carry out effects.
pub(super) struct Surroundings<'a> {
    pub(super) context: &'a Arc<LinkContext>,
    pub(super) shard: &'a LinkShardHandle,
    pub(super) inbox: &'a Arc<LinkInbox>,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) now_ms: u64,
    pub(super) heartbeat_ms: u64,
}

/// How a step ended.
pub(super) enum Stepped {
    /// It goes on.
    On,
    /// It is to be closed.
    Close(Code, &'static str),
    /// It panicked.
    Crashed,
}

/// A live session.
pub(super) struct Host {
    pub(super) number: SessionNumber,
    /// What items of the inbox call this incarnation of the session: those of a former one on the
    /// same link are void.
    key: SessionNumber,
    session: Session,
    pub(super) identity: Arc<Identity>,
    pub(super) generation: u64,
    /// The token's end, as last refreshed; Unix seconds.
    pub(super) exp_s: u64,
    /// When its generation is verified next, Unix milliseconds of the store.
    verify_at_ms: u64,
    /// What the store knows of the heartbeat.
    heartbeat_saved_ms: u64,
    /// Cursors that the terminal sent with `subscribe` requests that are on their way.
    own_cursors: Vec<(TopicName, Cursor)>,
    /// Requests that wait for the store, and their turns: they are carried out in their order.
    requests: Vec<u64>,
    turns: Turns,
    /// Up to where the crashed session whose place it took had sent each log; else empty.
    sent_before: Box<[(LogAlias, Offset)]>,
    _place: Option<Box<Place>>,
    _counted: Token,
}

impl Host {
    /// Begins a session: writes `opened`, registers its logs, then reads (I4).
    pub(super) fn begin(
        (number, key): (SessionNumber, SessionNumber),
        grant: Grant,
        own: &[(LogName, Cursor)],
        around: &mut Surroundings<'_>,
    ) -> (Self, Stepped) {
        let Grant { identity, opened, refused, place } = grant;
        let start = |log: OpenedLog| start_log(around.context, log, own);
        let logs: Vec<StartLog> = opened.logs.into_iter().map(start).collect();
        let mut effects = Vec::new();
        let session = Session::new(logs, around.now_ms, &mut effects);
        let mut host = Self {
            number,
            key,
            session,
            exp_s: identity.exp_s,
            _counted: around.context.count(&identity.product),
            identity,
            generation: opened.generation,
            verify_at_ms: around.now_ms + around.context.limits.generation_check_ms,
            heartbeat_saved_ms: opened.heartbeat_ms.unwrap_or(0),
            own_cursors: Vec::new(),
            requests: Vec::new(),
            turns: Turns::default(),
            sent_before: Box::default(),
            _place: place,
        };
        let frame = NodeFrame::Opened(Opened {
            s: number,
            node: around.context.node.clone(),
            generation: host.generation,
            time_ms: opened.time_ms,
            heartbeat_ms: around.heartbeat_ms,
            window: around.context.session_limits.window_entries,
            ack_timeout_ms: around.context.session_limits.ack_timeout_ms,
            exp: host.exp_s,
            logs: host.positions(),
            refused: refused.iter().map(|(topic, code)| (topic.clone(), code.number())).collect(),
        });
        encode::frame(around.out, &frame);
        let stepped = host.carry_out(effects, around);
        host.register_all(opened.time_ms, around);
        (host, stepped)
    }

    /// Begins again in the place of `former`, which crashed or whose record changed. The terminal
    /// sees the same session: logs keep their aliases, what it has not acknowledged comes again,
    /// and what was joined or left meanwhile is told like any change by the back-end.
    pub(super) fn rebuild(
        mut former: Self,
        key: SessionNumber,
        grant: Grant,
        around: &mut Surroundings<'_>,
    ) -> (Self, Stepped) {
        let opened = grant.opened;
        let start = |log: OpenedLog| start_log(around.context, log, &[]);
        let logs: Vec<StartLog> = opened.logs.into_iter().map(start).collect();
        let mut effects = Vec::new();
        let session = Session::rebuild(&former.session, logs, &mut effects);
        let before = std::mem::replace(&mut former.session, session);
        for id in std::mem::take(&mut former.requests) {
            former.error(Some(id), Code::Overloaded, None, around);
        }
        let mut host = Self {
            key,
            sent_before: before.logs().map(|(alias, _, _, position)| (alias, position)).collect(),
            generation: opened.generation,
            verify_at_ms: around.now_ms + around.context.limits.generation_check_ms,
            own_cursors: Vec::new(),
            turns: Turns::default(),
            ..former
        };
        let s = host.number;
        for log in host.positions() {
            if before.log(log.l).is_none() {
                encode::frame(around.out, &NodeFrame::Subscribed { s, id: None, log });
            }
        }
        for (alias, log, ..) in before.logs() {
            if let (None, LogName::Topic(topic)) = (host.session.log(alias), log.local_name()) {
                encode::frame(around.out, &NodeFrame::Unsubscribed { s, id: None, topic });
            }
        }
        let stepped = host.carry_out(effects, around);
        host.register_all(opened.time_ms, around);
        (host, stepped)
    }

    /// Whether a session that crashed on this link may have sent some of these already.
    fn was_sent_before(&self, alias: LogAlias, entries: &[Arc<Entry>]) -> bool {
        let Some((_, up_to)) = self.sent_before.iter().find(|(of, _)| *of == alias) else {
            return false;
        };
        entries.iter().any(|entry| entry.offset != Offset::ZERO && entry.offset <= *up_to)
    }

    fn register_all(&self, since_ms: u64, around: &Surroundings<'_>) {
        for (alias, log, ..) in self.session.logs() {
            self.register(alias, Arc::clone(log), since_ms, around);
        }
    }

    /// Room for a request to the store, which is carried out after those before it. `None`: too
    /// many are on the way.
    pub(super) fn request(&mut self, id: u64, around: &mut Surroundings<'_>) -> Option<Turn> {
        if self.requests.len() >= REQUESTS_MAX {
            self.error(Some(id), Code::Overloaded, None, around);
            return None;
        }
        self.requests.push(id);
        Some(self.turns.take())
    }

    /// A request has its answer.
    pub(super) fn answered(&mut self, id: Option<u64>) {
        let at = self.requests.iter().position(|of| Some(*of) == id);
        if let Some(at) = at {
            self.requests.swap_remove(at);
        }
        if self.requests.is_empty() {
            self.requests = Vec::new();
        }
    }

    /// Room for a `refresh`: one at a time.
    pub(super) fn begin_refresh(&mut self) -> bool {
        let room = !self.requests.contains(&REFRESH);
        if room {
            self.requests.push(REFRESH);
        }
        room
    }

    /// One event for the session, inside the panic boundary.
    pub(super) fn step(&mut self, event: Event, around: &mut Surroundings<'_>) -> Stepped {
        let mut effects = Vec::new();
        let (now_ms, limits) = (fault::judged_ms(around.now_ms), &around.context.session_limits);
        let session = &mut self.session;
        let step = AssertUnwindSafe(|| {
            fault::point("session");
            session.step(event, now_ms, limits, &mut effects);
        });
        // What a panicking session leaves behind is thrown away with it, its effects too.
        match std::panic::catch_unwind(step) {
            Ok(()) => self.carry_out(effects, around),
            Err(_) => Stepped::Crashed,
        }
    }

    /// The session is in a topic now.
    pub(super) fn join(
        &mut self,
        opened: OpenedLog,
        own: Option<(Epoch, Offset)>,
        id: Option<u64>,
        around: &mut Surroundings<'_>,
    ) -> Stepped {
        let mut start = start_log(around.context, opened, &[]);
        start.own = own;
        let log = Arc::clone(&start.log);
        if id.is_none() && self.session.logs().any(|(_, known, ..)| *known == log) {
            return Stepped::On; // the back-end's change was in `opened` already
        }
        let mut effects = Vec::new();
        let Some(alias) = self.session.join(start, around.now_ms, &mut effects) else {
            let detail = Some("no room for another log".to_owned());
            self.error(id, Code::TooManyTopics, detail, around);
            return Stepped::On;
        };
        let position = self.positions().into_iter().find(|position| position.l == alias);
        if let Some(log) = position {
            encode::frame(around.out, &NodeFrame::Subscribed { s: self.number, id, log });
        }
        let stepped = self.carry_out(effects, around);
        // 0: nothing is known of the time between the store's answer and now.
        self.register(alias, log, 0, around);
        stepped
    }

    /// The session is out of a topic.
    pub(super) fn leave(
        &mut self,
        topic: TopicName,
        id: Option<u64>,
        around: &mut Surroundings<'_>,
    ) {
        let log = LogKey::topic(&self.identity.product, &topic);
        if let Some(alias) = self.session.leave(&log) {
            around.context.relays.deregister(log, self.subscriber(alias, around.inbox));
        } else if id.is_none() {
            return;
        }
        encode::frame(around.out, &NodeFrame::Unsubscribed { s: self.number, id, topic });
    }

    pub(super) fn error(
        &self,
        id: Option<u64>,
        code: Code,
        detail: Option<String>,
        around: &mut Surroundings<'_>,
    ) {
        let (s, reason) = (self.number, code.as_str().to_owned());
        let frame = NodeFrame::Error { s, id, code: code.number(), reason, detail };
        encode::frame(around.out, &frame);
    }

    /// Whether the terminal may join `topic` by itself, or is in it already.
    pub(super) fn may_join(&self, topic: &TopicName) -> bool {
        let is_it = |log: &LogKey| log.kind == LogKind::Topic && &*log.name == topic.as_str();
        self.identity.topics.iter().any(|pattern| pattern.matches(topic))
            || self.session.logs().any(|(_, log, ..)| is_it(log))
    }

    /// Keeps the cursor of a `subscribe` until its answer comes; one for each topic, and no more
    /// than a terminal may have topics.
    pub(super) fn remember_own(
        &mut self,
        topic: &TopicName,
        cursor: Option<Cursor>,
        topics_max: u32,
    ) {
        let _ = self.take_own(topic);
        if let Some(cursor) = cursor
            && self.own_cursors.len() < topics_max as usize
        {
            self.own_cursors.push((topic.clone(), cursor));
        }
    }

    /// Takes it back.
    pub(super) fn take_own(&mut self, topic: &TopicName) -> Option<(Epoch, Offset)> {
        let at = self.own_cursors.iter().position(|(of, _)| of == topic)?;
        let (_, cursor) = self.own_cursors.swap_remove(at);
        if self.own_cursors.is_empty() {
            self.own_cursors = Vec::new();
        }
        Some((cursor.0, cursor.1))
    }

    /// A new token of the same identity.
    pub(super) fn refreshed(&mut self, identity: Box<Identity>) {
        self.exp_s = identity.exp_s;
        self.identity = Arc::from(identity);
    }

    pub(super) fn kind(&self) -> TerminalKind {
        self.identity.kind
    }

    /// Registers with a relay that was restarted. Reads that it was asked for may be lost with it:
    /// they count as failed, and one that is answered all the same does no harm.
    pub(super) fn register_again(&mut self, relay: u16, around: &mut Surroundings<'_>) -> Stepped {
        let of_relay =
            |(_, log): &(LogAlias, Arc<LogKey>)| around.context.relays.number_of(log) == relay;
        let logs = self.session.logs().map(|(alias, log, ..)| (alias, Arc::clone(log)));
        let logs: Vec<_> = logs.filter(of_relay).collect();
        for (alias, log) in logs {
            self.register(alias, log, 0, around);
            match self.step(Event::ReadFailed { log: alias }, around) {
                Stepped::On => {}
                ended => return ended,
            }
        }
        Stepped::On
    }

    /// What a tick brings: the token's end, the generation check, the session's own deadlines.
    pub(super) fn tick(&mut self, around: &mut Surroundings<'_>) -> Stepped {
        if around.now_ms / 1000 >= self.exp_s {
            return Stepped::Close(Code::TokenExpired, "the token's time is over");
        }
        if around.now_ms >= self.verify_at_ms {
            self.verify_at_ms = around.now_ms + around.context.limits.generation_check_ms;
            let identity = &self.identity;
            let who = (identity.product.clone(), identity.terminal.clone(), self.generation);
            around.shard.cursors.verify(who, around.inbox, self.key);
        }
        self.step(Event::Tick, around)
    }

    /// When it wants a tick.
    pub(super) fn deadline_ms(&self, context: &LinkContext) -> u64 {
        let own = self.session.deadline_ms(&context.session_limits).unwrap_or(u64::MAX);
        own.min(self.verify_at_ms).min(self.exp_s.saturating_mul(1000))
    }

    /// Ends the session: attempts, cursors and heartbeat are noted, its logs deregistered.
    pub(super) fn end(&mut self, heartbeat_ms: u64, around: &mut Surroundings<'_>) {
        let mut effects = Vec::new();
        let session = &mut self.session;
        let finish = AssertUnwindSafe(|| session.finish(&mut effects));
        if std::panic::catch_unwind(finish).is_ok() {
            let _ = self.carry_out(effects, around);
        }
        let saved_ms = self.heartbeat_saved_ms.max(around.context.limits.heartbeat_min_ms);
        if heartbeat_ms != saved_ms {
            self.save_heartbeat(heartbeat_ms, around);
        }
        self.deregister(around);
        around.shard.flush_soon();
    }

    /// Takes its logs out of the relays.
    pub(super) fn deregister(&self, around: &Surroundings<'_>) {
        for (alias, log, ..) in self.session.logs() {
            let subscriber = self.subscriber(alias, around.inbox);
            around.context.relays.deregister(Arc::clone(log), subscriber);
        }
    }

    fn save_heartbeat(&mut self, heartbeat_ms: u64, around: &Surroundings<'_>) {
        let own_inbox = |log: &LogKey| log.kind == LogKind::Terminal;
        let Some((_, log, epoch, _)) = self.session.logs().find(|(_, log, ..)| own_inbox(log))
        else {
            return;
        };
        // A cursor of zero never lowers the stored one: it only carries the heartbeat.
        let save = CursorSave {
            terminal: self.identity.terminal.clone(),
            log: Arc::clone(log),
            generation: self.generation,
            epoch,
            cursor: Offset::ZERO,
            attempts: 0,
            settled: Vec::new(),
            heartbeat_ms: Some(heartbeat_ms),
        };
        around.shard.cursors.note_heartbeat(save, around.inbox, self.key);
    }

    fn carry_out(&mut self, effects: Vec<Effect>, around: &mut Surroundings<'_>) -> Stepped {
        let s = self.number;
        for effect in effects {
            match effect {
                Effect::DeliverBatch { log, batch } => {
                    if self.was_sent_before(log, &batch.entries) {
                        encode::entries(around.out, s, log, true, &batch.entries);
                    } else {
                        encode::batch(around.out, s, log, &batch);
                    }
                    count_written(batch.entries.len());
                    if batch.log.kind.is_wide() {
                        batch.written.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    } else {
                        let stored = |offset: &Offset| *offset != Offset::ZERO;
                        let offsets = batch.entries.iter().map(|entry| entry.offset).filter(stored);
                        around.shard.cursors.count_delivered(&batch.log, offsets);
                    }
                }
                Effect::Deliver { log, again, entries } => {
                    let again = again || self.was_sent_before(log, &entries);
                    encode::entries(around.out, s, log, again, &entries);
                    count_written(entries.len());
                    if let (false, Some(key)) = (again, self.session.log(log)) {
                        let stored =
                            entries.iter().map(|e| e.offset).filter(|o| *o != Offset::ZERO);
                        around.shard.cursors.count_delivered(key, stored);
                    }
                }
                Effect::Gap { log, epoch, from, to, reason } => {
                    metrics::counter!("clarion_gaps_total").increment(1);
                    let frame = NodeFrame::Gap { s, l: log, epoch, from, to, reason };
                    encode::frame(around.out, &frame);
                }
                Effect::Read { log, after, entries_max, bytes_max, known } => {
                    if let Some(key) = self.session.log(log) {
                        let read = Read { log: Arc::clone(key), after, entries_max, bytes_max };
                        around.context.read(read, known, self.subscriber(log, around.inbox));
                    }
                }
                Effect::Save { log, epoch, cursor, attempts, settled } => {
                    self.save(log, epoch, cursor, attempts, settled, around);
                }
                Effect::Control(Control::Subscribed(topic) | Control::Unsubscribed(topic)) => {
                    let turn = self.turns.take();
                    around.context.follow_record(
                        around.inbox,
                        self.key,
                        &self.identity,
                        topic,
                        turn,
                    );
                }
                Effect::Close { code, detail } => return Stepped::Close(code, detail),
            }
        }
        Stepped::On
    }

    fn save(
        &self,
        log: LogAlias,
        epoch: Epoch,
        cursor: Offset,
        attempts: u8,
        settled: Vec<clarion_core::Settled>,
        around: &Surroundings<'_>,
    ) {
        let Some(key) = self.session.log(log) else { return };
        let save = CursorSave {
            terminal: self.identity.terminal.clone(),
            log: Arc::clone(key),
            generation: self.generation,
            epoch,
            cursor,
            attempts,
            settled,
            heartbeat_ms: None,
        };
        around.shard.cursors.note(save, around.inbox, self.key);
    }

    fn register(
        &self,
        alias: LogAlias,
        log: Arc<LogKey>,
        since_ms: u64,
        around: &Surroundings<'_>,
    ) {
        // The terminal's own inbox tells older sessions that they are replaced (I7).
        let generation = if log.kind == LogKind::Terminal { self.generation } else { 0 };
        let subscriber = self.subscriber(alias, around.inbox);
        around.context.relays.register(log, subscriber, since_ms, generation);
    }

    fn subscriber(&self, alias: LogAlias, inbox: &Arc<LinkInbox>) -> Subscriber {
        Subscriber { inbox: Arc::clone(inbox), session: self.key, alias }
    }

    fn positions(&self) -> Vec<LogPosition> {
        let position = |(l, log, epoch, offset): (LogAlias, &Arc<LogKey>, Epoch, Offset)| {
            LogPosition { l, log: log.local_name(), epoch, offset }
        };
        self.session.logs().map(position).collect()
    }
}

fn start_log(context: &LinkContext, opened: OpenedLog, own: &[(LogName, Cursor)]) -> StartLog {
    let name = opened.log.local_name();
    let own = own.iter().find(|(of, _)| *of == name).map(|(_, cursor)| (cursor.0, cursor.1));
    StartLog {
        log: context.intern(opened.log),
        epoch: opened.epoch,
        cursor_epoch: opened.cursor_epoch,
        cursor: opened.cursor,
        attempts: opened.attempts,
        head: opened.head,
        own,
    }
}

fn count_written(messages: usize) {
    static WRITTEN: std::sync::LazyLock<metrics::Counter> =
        std::sync::LazyLock::new(|| metrics::counter!("clarion_messages_written_total"));
    WRITTEN.increment(messages as u64);
}
