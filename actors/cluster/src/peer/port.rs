//! Where frames arrive: one unnamed remotable actor per lane and one for link control, for all peers,
//! as long as the node lives. They are the only remotable actors of a node: each is announced to
//! every peer.
//!
//! A peer finds them through process groups whose names carry this node's boot. Child of the
//! [`Hub`](super::hub). What a crash loses: the frames in its mailbox; so every session ends with it
//! and begins anew.

use std::sync::Arc;

use bytes::Bytes;
use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, Message, SupervisionEvent};

use super::frame;
use super::session::Why;
use super::shared::Shared;
use crate::BootId;

/// One per lane, and the last for link control.
pub(super) const PORTS: usize = 5;
const SCOPE: &str = "clarion.peer";
const VARIANT: &str = "frame";

/// The one message that goes over the wire. Not derived: the derive would copy the frame twice, and
/// would end the port by what it cannot decode.
pub(super) enum PortMessage {
    /// A frame; its layout is versioned by itself.
    Frame(Vec<u8>),
    /// Something that a later release may send.
    Unknown,
}

impl Message for PortMessage {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        match self {
            Self::Frame(args) => {
                Ok(SerializedMessage::Cast { variant: VARIANT.to_owned(), args, metadata: None })
            }
            Self::Unknown => Err(BoxedDowncastErr),
        }
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        Ok(match message {
            SerializedMessage::Cast { variant, args, .. } if variant == VARIANT => {
                Self::Frame(args)
            }
            _ => Self::Unknown,
        })
    }
}

fn group(id: &str, boot: BootId, port: usize) -> String {
    format!("{id}-{boot}/{port}")
}

/// Makes a port findable for peers.
pub(super) fn publish(shared: &Shared, port: usize, cell: ActorCell) {
    let group = group(&shared.identity.id, shared.identity.boot, port);
    ractor::pg::join_scoped(SCOPE.to_owned(), group, vec![cell]);
}

/// The ports of a peer as the node session `node_id` has announced them.
pub(super) fn find(id: &str, boot: BootId, node_id: u64) -> Option<[ActorRef<PortMessage>; PORTS]> {
    let mut found = Vec::with_capacity(PORTS);
    for port in 0..PORTS {
        let members = ractor::pg::get_scoped_members(&SCOPE.to_owned(), &group(id, boot, port));
        let member = members.into_iter().find(|cell| {
            // Another session may have left its own behind.
            matches!(cell.get_id(), ractor::ActorId::Remote { node_id: of, .. } if of == node_id)
        })?;
        found.push(ActorRef::from(member));
    }
    found.try_into().ok()
}

pub(super) struct Port;

pub(super) struct PortState {
    shared: Arc<Shared>,
    index: usize,
}

impl Actor for Port {
    type Msg = PortMessage;
    type State = PortState;
    type Arguments = (Arc<Shared>, usize);

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (shared, index): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(PortState { shared, index })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PortMessage::Frame(frame) => state.on_frame(frame.into()),
            PortMessage::Unknown => state.on_noise("an unknown message"),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        _: SupervisionEvent,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // Process groups and children tell it nothing that it acts on.
        Ok(())
    }
}

impl PortState {
    fn on_frame(&self, frame: Bytes) {
        match frame::decode(&frame) {
            Ok((header, messages)) => {
                let lane =
                    if self.index == PORTS - 1 { frame::LINK_LANE } else { self.index as u8 };
                // A frame of a session that has ended: its sender was hung, or it was under way.
                let Some(peer) = self.shared.session(header.session) else {
                    metrics::counter!("clarion_peer_stale_frames_total").increment(1);
                    return;
                };
                if header.lane == lane {
                    peer.on_frame(&header, messages);
                } else {
                    peer.close(Why::Corrupt);
                }
            }
            Err(error) => {
                // Whose it was cannot be believed, so ask for it unbelieved: closing a link that is
                // whole costs a redial, leaving one that is not would hide what was lost.
                match frame::claimed_session(&frame).and_then(|id| self.shared.session(id)) {
                    Some(peer) => {
                        tracing::warn!(peer = %peer.id, %error, "corrupt frame: closing the link");
                        peer.close(Why::Corrupt);
                    }
                    None => self.on_noise(&error.to_string()),
                }
            }
        }
    }

    /// Nobody knows whose it was. Whoever sent it will notice the gap that it leaves.
    fn on_noise(&self, what: &str) {
        tracing::warn!(port = self.index, what, "dropped what no peer of this node sends");
        metrics::counter!("clarion_peer_noise_total").increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_goes_over_the_wire_as_it_is() {
        let Ok(SerializedMessage::Cast { variant, args, metadata }) =
            PortMessage::Frame(b"frame".to_vec()).serialize()
        else {
            panic!("no cast")
        };
        assert_eq!((&*variant, &*args, metadata.is_none()), ("frame", &b"frame"[..], true));
        let back = PortMessage::deserialize(SerializedMessage::Cast { variant, args, metadata });
        assert!(matches!(back, Ok(PortMessage::Frame(frame)) if frame == b"frame"));
    }

    /// A message that cannot be decoded would end the port that gets it.
    #[test]
    fn what_a_later_release_sends_is_decoded_as_unknown() {
        let variant = "later".to_owned();
        let message = SerializedMessage::Cast { variant, args: vec![1], metadata: None };
        assert!(matches!(PortMessage::deserialize(message), Ok(PortMessage::Unknown)));
        let message = SerializedMessage::CallReply(1, vec![]);
        assert!(matches!(PortMessage::deserialize(message), Ok(PortMessage::Unknown)));
    }
}
