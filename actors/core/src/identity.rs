//! Who a node is: its boot and its roles. Its name is a text of the config.

use std::fmt;
use std::str::FromStr;

/// One life of a node: a random number drawn when the process starts. A name together with a boot is
/// one incarnation; what was said to or by another one is void. Written as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What is no boot id: anything but 16 hexadecimal digits in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a boot id is 16 hexadecimal digits")]
pub struct NoBootId;

impl FromStr for BootId {
    type Err = NoBootId;

    fn from_str(text: &str) -> Result<Self, NoBootId> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != 16 || !digits {
            return Err(NoBootId);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| NoBootId)
    }
}

/// One thing that a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Takes pushes over HTTP and passes them to the owners.
    Push = 1,
    /// Holds links of terminals.
    Gateway = 2,
    /// Owns slots.
    Broker = 4,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Push, Self::Gateway, Self::Broker];

    /// The name in the config and in gossip.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Gateway => "gateway",
            Self::Broker => "broker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role; there are push, gateway and broker")]
pub struct NoRole(pub String);

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        let named = |role: &Self| role.as_str() == text;
        Self::ALL.into_iter().find(named).ok_or_else(|| NoRole(text.to_owned()))
    }
}

/// The roles of a node. As text: their names with commas between, in the order of [`Role::ALL`];
/// nothing for none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Roles(u8);

impl Roles {
    /// None: a node that only watches.
    pub const NONE: Self = Self(0);
    /// Every role.
    pub const ALL: Self = Self(Role::Push as u8 | Role::Gateway as u8 | Role::Broker as u8);

    /// With this one too.
    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Self(self.0 | role as u8)
    }

    /// Whether this is one of them.
    #[must_use]
    pub const fn has(self, role: Role) -> bool {
        self.0 & role as u8 != 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }

    /// From their names, as the config has them; repetition does not matter.
    ///
    /// # Errors
    /// The first name that is none.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, NoRole> {
        names.into_iter().map(str::parse).collect()
    }

    /// From gossip: names of roles that a newer release invented are left out.
    #[must_use]
    pub fn from_gossip(text: &str) -> Self {
        text.split(',').filter_map(|name| name.parse().ok()).collect()
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        roles.into_iter().fold(Self::NONE, Self::with)
    }
}

impl FromStr for Roles {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        if text.is_empty() {
            return Ok(Self::NONE);
        }
        Self::from_names(text.split(','))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for role in self.iter() {
            write!(f, "{separator}{role}")?;
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_16_hexadecimal_digits() {
        let boot = BootId(0xab);
        assert_eq!(boot.to_string(), "00000000000000ab");
        assert_eq!(boot.to_string().parse(), Ok(boot));
        for text in ["", "ab", "00000000000000AB", "+0000000000000ab", "00000000000000abc"] {
            assert_eq!(text.parse::<BootId>(), Err(NoBootId), "{text}");
        }
    }

    #[test]
    fn roles_are_read_and_written_by_name() {
        for bits in 0..8 {
            let roles = Roles(bits);
            assert_eq!(roles.to_string().parse(), Ok(roles));
            assert_eq!(roles.iter().collect::<Roles>(), roles);
        }
        assert_eq!(Roles::ALL.to_string(), "push,gateway,broker");
        assert_eq!(Roles::from_names(["broker", "push", "broker"]), "push,broker".parse());
        let unknown = Err(NoRole("edge".to_owned()));
        assert_eq!(Roles::from_names(["push", "edge"]), unknown);
        assert_eq!(Roles::from_gossip("push,edge"), Roles::NONE.with(Role::Push));
        assert_eq!(Roles::from_gossip(""), Roles::NONE);
    }
}
