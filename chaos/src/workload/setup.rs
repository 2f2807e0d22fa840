//! What there has to be before a load can run: products, tokens, and a topic that is filled.

use std::path::Path;

use clarion_protocol::http::{ProductCreate, TokenRequest};
use clarion_protocol::{IdError, LogName, ProductId, TerminalId, TopicName, TopicPattern, UserId};
use clarion_sdk::{Admin, Backend};

use super::plan::{Product, TerminalPlan};
use super::{
    Doors, LATE_EVERY, TERMINALS_PER_USER, TOPIC_FILLED, TOPIC_FLIPPED, TOPIC_OWN, terminal_name,
    user_name,
};
use crate::Failure;
use crate::history::{Client, Event, History, Name};

/// How long tokens live: longer than any run.
const TOKEN_TTL_S: u64 = 30 * 24 * 3600;

/// The administrator.
pub(super) struct Setup<'a> {
    admin: Admin,
    http: &'a str,
    history: &'a History,
}

/// What a product is to be like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub name: &'a str,
    pub terminals: usize,
    pub pushes_per_s_max: Option<u32>,
}

impl<'a> Setup<'a> {
    pub fn new(doors: &'a Doors, history: &'a History) -> Result<Self, Failure> {
        let http = doors.http.first().map_or("", |door| door.url.as_str());
        let admin = Admin::new(http, &doors.admin_token)
            .map_err(Failure::of("cannot make the administrator"))?;
        Ok(Self { admin, http, history })
    }

    pub async fn product(&self, wish: Wish<'_>) -> Result<Product, Failure> {
        let create = ProductCreate {
            product: ProductId::new(wish.name).map_err(Failure::of("the product"))?,
            kinds: None,
            allow_sha1_body_hash: None,
            pushes_per_s_max: wish.pushes_per_s_max,
            isolation_group: None,
            token_public_key_pem: None,
        };
        let info = self.admin.create_product(&create).await;
        let info = info.map_err(Failure::of("cannot create a product"))?;
        let key = info.api_keys.into_iter().next();
        let key = key.ok_or_else(|| Failure::new("the product has no key"))?;
        let users = wish.terminals.div_ceil(TERMINALS_PER_USER);
        Ok(Product {
            name: wish.name.into(),
            key: key.key.to_string(),
            secret: key.secret.unwrap_or_default(),
            terminals: (0..wish.terminals).map(terminal_name).collect(),
            users: (0..users).map(user_name).collect(),
            topics: [TOPIC_OWN, TOPIC_FILLED, TOPIC_FLIPPED].map(str::to_owned).to_vec(),
            filled: Vec::new(),
        })
    }

    /// A terminal of the product; `index` is its number among all.
    pub async fn terminal(
        &self,
        product: &Product,
        number: usize,
        index: usize,
        (directory, seed): (&Path, u64),
    ) -> Result<TerminalPlan, Failure> {
        let name = terminal_name(number);
        let user = user_name(number / TERMINALS_PER_USER);
        // Two of four have the SDK, one of those is slow.
        let client = match number % 4 {
            0 | 1 => Client::Sdk,
            2 => Client::RawCursors,
            _ => Client::RawPlain,
        };
        // A quarter of those with the SDK begin anew each time; without one a kind has none at all.
        let keeps_cursors = match client {
            Client::Sdk => number % 8 != 4,
            Client::RawCursors => true,
            Client::RawPlain => false,
        };
        let slow = number % 4 == 1;
        let token = self.token(product, &name, Some(&user)).await?;
        let who: Name = format!("{}/{name}", product.name).into();
        let topics = if number.is_multiple_of(2) { vec![TOPIC_OWN.to_owned()] } else { Vec::new() };
        self.history.add(Event::Terminal {
            who: Name::clone(&who),
            product: Name::clone(&product.name),
            user: Some(user),
            client,
            topics: topics.clone(),
            keeps_cursors,
            slow,
        });
        Ok(TerminalPlan {
            who,
            product: Name::clone(&product.name),
            token,
            topics,
            // Two of three, of every kind.
            flips: (!number.is_multiple_of(3)).then(|| TOPIC_FLIPPED.to_owned()),
            cursor_file: directory.join(format!("{}-{name}.cursors", product.name)),
            keeps_cursors,
            client,
            slow,
            first_door: index,
            seed: seed ^ (index as u64) << 32,
        })
    }

    /// A token for a terminal, which may join some topics by itself.
    pub async fn token(
        &self,
        product: &Product,
        terminal: &str,
        user: Option<&str>,
    ) -> Result<String, Failure> {
        let bad = Failure::of::<IdError>;
        let pattern = |topic| TopicPattern::new(topic).map_err(bad("the topic"));
        let request = TokenRequest {
            terminal: TerminalId::new(terminal).map_err(bad("the terminal"))?,
            user: user.map(UserId::new).transpose().map_err(bad("the user"))?,
            kind: None,
            topics: vec![pattern(TOPIC_OWN)?, pattern(TOPIC_FLIPPED)?],
            ttl_s: Some(TOKEN_TTL_S),
        };
        let id = ProductId::new(&product.name).map_err(bad("the product"))?;
        let minted = self.admin.mint_token(&id, &request).await;
        Ok(minted.map_err(Failure::of("cannot make a token"))?.token)
    }

    /// The back-end puts every third terminal into its topic, whether it ever connected or not.
    pub async fn fill_topic(&self, product: &mut Product) -> Result<(), Failure> {
        let topic = TopicName::new(TOPIC_FILLED).map_err(Failure::of("the topic"))?;
        let log = LogName::Topic(topic.clone());
        let names: Vec<String> = product.terminals.iter().step_by(3).cloned().collect();
        let who = |name: &str| Name::from(format!("{}/{name}", product.name));
        for name in &names {
            self.history.add(Event::Joining { who: who(name), log: log.clone() });
        }
        let ids = names.iter().map(|name| TerminalId::new(name)).collect::<Result<Vec<_>, _>>();
        let ids = ids.map_err(Failure::of("a terminal"))?;
        let outcomes = backend_at(self.http, product)?.put_members(&topic, ids).await;
        let outcomes = outcomes.map_err(Failure::of("cannot fill a topic"))?;
        if outcomes.iter().any(|outcome| !outcome.member) {
            return Err(Failure::new("a terminal was not put into a topic"));
        }
        for name in &names {
            self.history.add(Event::Joined { who: who(name), log: log.clone() });
        }
        product.filled = names;
        Ok(())
    }
}

/// Whether a terminal connects for the first time in the middle of the run.
pub(super) const fn is_late(number: usize) -> bool {
    number % LATE_EVERY == LATE_EVERY - 1
}

pub(super) fn backend_at(http: &str, product: &Product) -> Result<Backend, Failure> {
    Backend::builder(http, &product.name, &product.key, &product.secret)
        .build()
        .map_err(Failure::of("cannot make a back-end"))
}
