//! One product with its back-end and one terminal, at the nodes that a test names.
#![allow(dead_code, reason = "no test uses all of it")]

use std::time::Duration;

use clarion_protocol::http::{ProductCreate, TokenRequest};
use clarion_protocol::{IsolationGroup, ProductId, TerminalId};
use clarion_sdk::backoff::Backoff;
use clarion_sdk::{
    Admin, Backend, Event, Events, Payload, Push, PushError, Terminal, TerminalHandle,
};
use tokio::time::timeout;

/// Only ends a test that hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long one attempt to push may take.
const ATTEMPT: Duration = Duration::from_secs(5);

const TERMINAL: &str = "phone-1";

pub struct OneProduct {
    pub name: ProductId,
    admin: Admin,
    key: String,
    secret: String,
    token: String,
}

impl OneProduct {
    /// Makes it at the node whose API is `http`.
    pub async fn create(http: &str, admin_token: &str, name: &str, group: &str) -> Self {
        let admin = Admin::new(http, admin_token).unwrap();
        let name = ProductId::new(name).unwrap();
        let create = ProductCreate {
            product: name.clone(),
            kinds: None,
            allow_sha1_body_hash: None,
            pushes_per_s_max: None,
            isolation_group: Some(IsolationGroup::new(group).unwrap()),
            token_public_key_pem: None,
        };
        let info = admin.create_product(&create).await.unwrap();
        let key = info.api_keys.into_iter().next().unwrap();
        let request = TokenRequest {
            terminal: TerminalId::new(TERMINAL).unwrap(),
            user: None,
            kind: None,
            topics: Vec::new(),
            ttl_s: None,
        };
        let token = admin.mint_token(&name, &request).await.unwrap().token;
        Self { name, admin, key: key.key.to_string(), secret: key.secret.unwrap(), token }
    }

    /// The node that owns the terminal's inbox.
    pub async fn owner(&self) -> Option<String> {
        let place = self.admin.where_is(&self.name, "terminal", Some(TERMINAL)).await;
        place.unwrap().owner
    }

    /// A back-end that tries once and says how it was.
    pub fn backend(&self, http: &str) -> Backend {
        Backend::builder(http, self.name.as_str(), &self.key, &self.secret)
            .tuning(|tuning| {
                let never = Duration::from_secs(86_400);
                tuning.retry = Backoff { base: never, cap: never };
                (tuning.attempt_timeout, tuning.deadline) = (ATTEMPT, ATTEMPT);
            })
            .build()
            .unwrap()
    }

    /// The terminal, online at an access point that the node with the API `http` names.
    pub async fn listen(&self, http: &str) -> Listener {
        let token = self.token.clone();
        let terminal = Terminal::discovering(http, self.name.as_str(), token);
        let (handle, events) = terminal.connect().await.unwrap();
        let mut listener = Listener { handle, events, node: String::new() };
        listener.node = listener.opened().await;
        listener
    }
}

/// The terminal.
pub struct Listener {
    handle: TerminalHandle,
    events: Events,
    /// The node that it came to at first.
    pub node: String,
}

impl Listener {
    async fn opened(&mut self) -> String {
        loop {
            match timeout(DEADLINE, self.events.next()).await.expect("a session in time") {
                Some(Event::Opened(opened)) => return opened.node,
                // The list of access points may be empty for a moment yet.
                Some(Event::Disconnected { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next message, in the session that was opened first.
    pub async fn next(&mut self) -> String {
        match timeout(DEADLINE, self.events.next()).await.expect("a message in time") {
            Some(Event::Message(message)) => {
                message.ack();
                match &message.payload {
                    Payload::Json(text) => text.get().to_owned(),
                    Payload::Bytes { .. } => panic!("{message:?}"),
                }
            }
            other => panic!("the session of {} did not stay: {other:?}", self.node),
        }
    }

    /// Goes offline in good order.
    pub async fn leave(mut self) {
        self.handle.close();
        while self.events.next().await.is_some() {}
    }

    /// A push at the first attempt, and its delivery.
    pub async fn passes(&mut self, backend: &Backend, number: u64) {
        push(backend, number).await.unwrap_or_else(|error| panic!("push {number}: {error}"));
        assert_eq!(self.next().await, number.to_string());
    }
}

/// Stored for the terminal, or why not.
pub async fn push(backend: &Backend, number: u64) -> Result<(), PushError> {
    backend.push(Push::to_terminal(TERMINAL).json(&number)?).await.map(drop)
}
