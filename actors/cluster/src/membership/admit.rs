//! What a signed message may ask of us. Chitchat remembers every node id it hears of and every key
//! it is given; a peer that talks nonsense (a bug, a stolen cookie) must not fill the memory, so
//! messages are measured before chitchat sees them. Pure.

use std::collections::HashSet;

use chitchat::{ChitchatId, Deserializable, Serializable};

/// Incarnations of nodes that are remembered at once, the dead ones included: four for each of the
/// most members a cluster may have.
pub(super) const KNOWN_MAX: usize = 1_024;
/// Most bytes of them in a digest, which chitchat sends whole and subtracts, unchecked, from the
/// largest datagram of UDP. Room for 460 of the longest names.
const KNOWN_BYTES_MAX: usize = 48 * 1024;
/// Heartbeat and two versions, behind each id of a digest.
const PULSE_BYTES: usize = 24;
/// Most bytes of a node's name.
pub(super) const NODE_ID_BYTES_MAX: usize = 64;
/// Compressed blocks of one delta; each holds at most 64 KiB.
const BLOCKS_MAX: usize = 64;

/// Why a signed message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Not a message of chitchat's format 0, or a node's name too long.
    Form,
    /// It would make us remember more incarnations than [`KNOWN_MAX`] or longer names than honest.
    Crowded,
    /// A delta that unpacks to more than any honest one.
    Swollen,
}

impl Unfit {
    /// The metric's label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Crowded => "crowded",
            Self::Swollen => "swollen",
        }
    }
}

/// The incarnations chitchat remembers, as far as we let it.
#[derive(Default)]
pub(super) struct Known {
    ids: HashSet<ChitchatId>,
    /// Of their digest.
    bytes: usize,
}

impl Known {
    /// Starts over from what chitchat still remembers.
    pub(super) fn refresh(&mut self, ids: impl Iterator<Item = ChitchatId>) {
        self.ids = ids.collect();
        self.bytes = bytes_of(&self.ids);
    }

    /// Whether chitchat may see this message; notes the ids it names.
    pub(super) fn admit(&mut self, message: &[u8]) -> Result<(), Unfit> {
        // Magic number 45139, little-endian; format 0; the kind of message.
        let [0x53, 0xb0, 0, kind, rest @ ..] = message else { return Err(Unfit::Form) };
        let mut rest = rest;
        match kind {
            0 => self.digest(&mut rest),
            1 => {
                self.digest(&mut rest)?;
                delta(rest)
            }
            2 => delta(rest),
            3 => Ok(()),
            _ => Err(Unfit::Form),
        }
    }

    fn digest(&mut self, rest: &mut &[u8]) -> Result<(), Unfit> {
        let nodes = usize::from(u16::deserialize(rest).map_err(|_| Unfit::Form)?);
        if nodes > KNOWN_MAX {
            return Err(Unfit::Crowded);
        }
        let mut fresh = Vec::new();
        for _ in 0..nodes {
            let id = ChitchatId::deserialize(rest).map_err(|_| Unfit::Form)?;
            *rest = rest.get(PULSE_BYTES..).ok_or(Unfit::Form)?;
            if id.node_id.is_empty() || id.node_id.len() > NODE_ID_BYTES_MAX {
                return Err(Unfit::Form);
            }
            if !self.ids.contains(&id) {
                fresh.push(id);
            }
        }
        let bytes = self.bytes + bytes_of(&fresh);
        if self.ids.len() + fresh.len() > KNOWN_MAX || bytes > KNOWN_BYTES_MAX {
            return Err(Unfit::Crowded);
        }
        self.ids.extend(fresh);
        self.bytes = bytes;
        Ok(())
    }
}

fn bytes_of<'a>(ids: impl IntoIterator<Item = &'a ChitchatId>) -> usize {
    ids.into_iter().map(|id| id.serialized_len() + PULSE_BYTES).sum()
}

/// A delta is a row of blocks: type, length, bytes; a type of 0 ends it.
fn delta(mut rest: &[u8]) -> Result<(), Unfit> {
    for _ in 0..=BLOCKS_MAX {
        match rest {
            [0, ..] => return Ok(()),
            [1 | 2, low, high, bytes @ ..] => {
                let length = usize::from(u16::from_le_bytes([*low, *high]));
                rest = bytes.get(length..).ok_or(Unfit::Form)?;
            }
            _ => return Err(Unfit::Form),
        }
    }
    Err(Unfit::Swollen)
}

#[cfg(test)]
mod tests {
    use chitchat::Serializable;
    use proptest::prelude::*;

    use super::*;

    fn id(number: usize) -> ChitchatId {
        ChitchatId::new(format!("n{number}"), 1, "127.0.0.1:7000".parse().unwrap())
    }

    fn syn(ids: &[ChitchatId]) -> Vec<u8> {
        let mut bytes = vec![0x53, 0xb0, 0, 0];
        u16::try_from(ids.len()).unwrap().serialize(&mut bytes);
        for id in ids {
            id.serialize(&mut bytes);
            bytes.extend_from_slice(&[0; PULSE_BYTES]);
        }
        "cluster".serialize(&mut bytes);
        bytes
    }

    #[test]
    fn the_form_is_that_of_chitchat() {
        let bytes = syn(&[id(1), id(2)]);
        assert!(Known::default().admit(&bytes).is_ok());
        let parsed = chitchat::ChitchatMessage::deserialize(&mut &bytes[..]).unwrap();
        assert_eq!(parsed.serialize_to_vec(), bytes, "a new chitchat with another format?");
    }

    #[test]
    fn incarnations_are_bounded() {
        let mut known = Known::default();
        for number in 0..KNOWN_MAX {
            assert_eq!(known.admit(&syn(&[id(number)])), Ok(()));
        }
        assert_eq!(known.admit(&syn(&[id(KNOWN_MAX)])), Err(Unfit::Crowded));
        assert_eq!(known.admit(&syn(&[id(7)])), Ok(()), "those known go on");
        assert_eq!(known.ids.len(), KNOWN_MAX);
        known.refresh([id(1)].into_iter());
        assert_eq!(known.admit(&syn(&[id(KNOWN_MAX)])), Ok(()), "the forgotten make room");
    }

    #[test]
    fn a_digest_always_fits_a_message() {
        let mut known = Known::default();
        let long = |number: usize| {
            ChitchatId::new(format!("{number:064}"), 1, "[::1]:7000".parse().unwrap())
        };
        let admitted = (0..KNOWN_MAX).take_while(|at| known.admit(&syn(&[long(*at)])).is_ok());
        assert!(admitted.count() > 256, "a full cluster has room");
        assert!(known.bytes <= KNOWN_BYTES_MAX);
        let message_bytes_max = super::super::datagram::MESSAGE_BYTES_MAX.min(65_507);
        assert!(known.bytes < message_bytes_max, "or chitchat subtracts below nothing");
    }

    #[test]
    fn long_names_and_swollen_deltas_are_unfit() {
        let long = ChitchatId::new("x".repeat(65), 1, "127.0.0.1:7000".parse().unwrap());
        assert_eq!(Known::default().admit(&syn(&[long])), Err(Unfit::Form));
        let mut swollen = vec![0x53, 0xb0, 0, 2];
        for _ in 0..=BLOCKS_MAX {
            swollen.extend_from_slice(&[1, 1, 0, 9]);
        }
        swollen.push(0);
        assert_eq!(Known::default().admit(&swollen), Err(Unfit::Swollen));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = vec![0x53, 0xb0, 0];
            bytes.extend(noise);
            let _ = Known::default().admit(&bytes);
        }
    }
}
