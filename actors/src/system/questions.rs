//! What back-ends and operators ask of messages, members and terminals, wherever they are.

use clarion_core::LogKey;
use clarion_protocol::http::{MemberOutcome, MessageState, Page, TerminalInfo, TopicMember};
use clarion_protocol::{MessageId, ProductId, TerminalId, TopicName, UserId};

use super::System;
use crate::failure::Failure;
use crate::link::inbox::SessionEvent;
use crate::views::{message_state, page, terminal_info};

impl System {
    /// State and counts of a message.
    ///
    /// # Errors
    /// The store's.
    pub async fn message(
        &self,
        product: &ProductId,
        id: MessageId,
    ) -> Result<Option<MessageState>, Failure> {
        Ok(self.inner.store.message(product, id).await?.map(message_state))
    }

    /// Puts terminals into a topic.
    pub async fn put_members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        terminals: Vec<TerminalId>,
    ) -> Vec<MemberOutcome> {
        self.inner.members.put(product, topic, terminals).await
    }

    /// Takes terminals out of a topic; they may not rejoin by themselves.
    pub async fn remove_members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        terminals: Vec<TerminalId>,
    ) -> Vec<MemberOutcome> {
        self.inner.members.remove(product, topic, terminals).await
    }

    /// Members of a topic.
    ///
    /// # Errors
    /// The store's.
    pub async fn members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        after: Option<TerminalId>,
        limit: usize,
    ) -> Result<Page<TopicMember>, Failure> {
        let members = self.inner.store.members(product, topic, after, limit + 1).await?;
        let items = members.into_iter().map(|terminal| TopicMember { terminal }).collect();
        Ok(page(items, limit, |member: &TopicMember| member.terminal.to_string()))
    }

    /// Terminals of a product, or of one user.
    ///
    /// # Errors
    /// The store's.
    pub async fn terminals(
        &self,
        product: &ProductId,
        user: Option<UserId>,
        after: Option<TerminalId>,
        limit: usize,
    ) -> Result<Page<TerminalInfo>, Failure> {
        let records = self.inner.store.terminals(product, user, after, limit + 1).await?;
        let logs =
            records.iter().map(|record| LogKey::terminal(product, &record.terminal)).collect();
        let online = self.inner.router.nodes.online(logs).await;
        let items = records.into_iter().zip(online).map(terminal_info).collect();
        Ok(page(items, limit, |terminal: &TerminalInfo| terminal.terminal.to_string()))
    }

    /// One terminal.
    ///
    /// # Errors
    /// The store's.
    pub async fn terminal(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> Result<Option<TerminalInfo>, Failure> {
        let Some(record) = self.inner.store.terminal(product, terminal).await? else {
            return Ok(None);
        };
        let online =
            self.inner.router.nodes.online(vec![LogKey::terminal(product, terminal)]).await;
        Ok(Some(terminal_info((record, online.first().copied().unwrap_or(false)))))
    }

    /// Closes the live session of a terminal. `Ok(false)`: it has none.
    ///
    /// # Errors
    /// None today.
    pub async fn kick(&self, product: &ProductId, terminal: &TerminalId) -> Result<bool, Failure> {
        let log = LogKey::terminal(product, terminal);
        Ok(self.inner.router.nodes.notify(log, SessionEvent::Kicked).await)
    }
}
