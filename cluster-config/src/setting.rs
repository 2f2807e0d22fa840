//! The types a key can have: how each is read from TOML or text, checked and written.

use std::net::SocketAddr;
use std::path::PathBuf;

use clarion_protocol::TerminalId;
use serde::Serialize;
use toml::de::DeValue;
use url::Url;

/// What is wrong with one value, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub mend: String,
}

impl Fault {
    pub(crate) fn new(reason: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { reason: reason.into(), mend: mend.into() }
    }
}

/// What a value must satisfy beyond its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounds {
    /// Nothing more.
    Any,
    /// A number from the first to the second, both included.
    Range(u64, u64),
    /// An identifier: 1 to 64 of `A-Z a-z 0-9 . _ : @ ~ -`.
    Id,
    /// A host name or IP address with a port.
    HostPort,
    /// A URL with one of two schemes and nothing behind its path.
    Url(&'static str, &'static str),
    /// A log filter: a level, or `target=level` parts with commas between.
    LogFilter,
}

impl Bounds {
    /// The bounds in words, for the reference.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Any => String::new(),
            Self::Range(min, max) => format!("{min} to {max}"),
            Self::Id => "1 to 64 of `A-Z a-z 0-9 . _ : @ ~ -`".to_owned(),
            Self::HostPort => "`HOST:PORT`".to_owned(),
            Self::Url(a, b) => format!("`{a}://…` or `{b}://…`"),
            Self::LogFilter => "`error` `warn` `info` `debug` `trace` `off`".to_owned(),
        }
    }
}

/// A type that a key can have.
pub trait Setting: Sized {
    /// Its name in the reference and in messages.
    const TYPE: &'static str;

    /// Reads a text: an environment variable, or a TOML string of a type that is written as one.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    fn from_text(text: &str, bounds: Bounds) -> Result<Self, Fault>;

    /// Reads a TOML value. Types that are written as strings keep this one.
    ///
    /// # Errors
    /// Says what is wrong with the value.
    fn from_toml(value: &DeValue<'_>, bounds: Bounds) -> Result<Self, Fault> {
        match value {
            DeValue::String(text) => Self::from_text(text, bounds),
            other => Err(wrong_type(other, "a string", "put the value in double quotes")),
        }
    }

    /// The value as TOML, or none when it is not set.
    fn to_toml(&self) -> Option<String>;
}

fn wrong_type(value: &DeValue<'_>, wanted: &str, mend: &str) -> Fault {
    let found = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    Fault::new(format!("must be {wanted}, not {found}"), mend)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The largest number a key may have: TOML's integers have 64 bits with a sign.
const INTEGER_MAX: u64 = i64::MAX.unsigned_abs();

fn bounded<T: TryFrom<u64>>(number: Option<u64>, shown: &str, bounds: Bounds) -> Result<T, Fault> {
    let (min, max) = match bounds {
        Bounds::Range(min, max) => (min, max),
        Bounds::Any | Bounds::Id | Bounds::HostPort | Bounds::Url(..) | Bounds::LogFilter => {
            (0, INTEGER_MAX)
        }
    };
    number
        .filter(|number| (min..=max).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| {
            Fault::new(
                format!("{shown} is out of bounds"),
                format!("give a whole number from {min} to {max}"),
            )
        })
}

macro_rules! number_setting {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            const TYPE: &'static str = "number";

            fn from_text(text: &str, bounds: Bounds) -> Result<Self, Fault> {
                let digits = text.strip_prefix('-').unwrap_or(text);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    let reason = format!("{text:?} is not a whole number");
                    return Err(Fault::new(reason, "give it in digits only"));
                }
                bounded(text.parse().ok(), text, bounds)
            }

            fn from_toml(value: &DeValue<'_>, bounds: Bounds) -> Result<Self, Fault> {
                match value {
                    DeValue::Integer(integer) => {
                        let number = u64::from_str_radix(integer.as_str(), integer.radix());
                        bounded(number.ok(), integer.as_str(), bounds)
                    }
                    DeValue::String(_) => {
                        Err(wrong_type(value, "a whole number", "remove the quotes"))
                    }
                    other => Err(wrong_type(other, "a whole number", "give it in digits only")),
                }
            }

            fn to_toml(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}

number_setting!(u8, u32, u64, usize);

impl Setting for String {
    const TYPE: &'static str = "string";

    fn from_text(text: &str, bounds: Bounds) -> Result<Self, Fault> {
        match bounds {
            Bounds::Any | Bounds::Range(..) => Ok(text.to_owned()),
            Bounds::Id => match text.parse::<TerminalId>() {
                Ok(_) => Ok(text.to_owned()),
                Err(error) => Err(Fault::new(
                    format!("{text:?} {error}"),
                    format!("use {}", bounds.describe().replace('`', "")),
                )),
            },
            Bounds::HostPort => check_host_port(text).map(|()| text.to_owned()),
            Bounds::Url(a, b) => check_url(text, a, b).map(|()| text.to_owned()),
            Bounds::LogFilter => check_log_filter(text).map(|()| text.to_owned()),
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(self))
    }
}

fn check_url(text: &str, plain: &str, secure: &str) -> Result<(), Fault> {
    let mend = || format!("write {secure}://HOST, with :PORT or a path if the proxy has them");
    let fault = |reason: &str| Err(Fault::new(format!("{text:?} {reason}"), mend()));
    let Ok(url) = Url::parse(text) else { return fault("is not a URL") };
    if url.scheme() != plain && url.scheme() != secure {
        return fault(&format!("is neither {plain}:// nor {secure}://"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return fault("names no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return fault("holds credentials");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return fault("has a query or fragment");
    }
    if url.path().len() > 1 && url.path().ends_with('/') {
        return fault("ends with a slash");
    }
    Ok(())
}

fn check_host_port(text: &str) -> Result<(), Fault> {
    let fault = || {
        Err(Fault::new(
            format!("{text:?} is not a host with a port"),
            "write HOST:PORT, such as node-2.example.com:7946, 10.0.0.2:7946 or [fd00::2]:7946",
        ))
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { fault() } else { Ok(()) };
    }
    let Some((host, port)) = text.rsplit_once(':') else { return fault() };
    let host_fits = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let port_fits =
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
    if host_fits && port_fits { Ok(()) } else { fault() }
}

fn check_log_filter(text: &str) -> Result<(), Fault> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let target = |name: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b':';
        !name.is_empty() && name.bytes().all(fits)
    };
    let fits = text.split(',').all(|part| match part.split_once('=') {
        Some((name, level)) => target(name) && LEVELS.contains(&level),
        None => LEVELS.contains(&part),
    });
    if fits {
        return Ok(());
    }
    Err(Fault::new(
        format!("{text:?} is not a log filter"),
        "give error, warn, info, debug, trace or off, or parts like info,clarion_actors=debug",
    ))
}

impl Setting for bool {
    const TYPE: &'static str = "`true` or `false`";

    fn from_text(text: &str, _: Bounds) -> Result<Self, Fault> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Fault::new(
                format!("{text:?} is neither true nor false"),
                "give one of the two",
            )),
        }
    }

    fn from_toml(value: &DeValue<'_>, _: Bounds) -> Result<Self, Fault> {
        match value {
            DeValue::Boolean(value) => Ok(*value),
            DeValue::String(_) => Err(wrong_type(value, "true or false", "remove the quotes")),
            other => Err(wrong_type(other, "true or false", "give one of the two")),
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Lists longer than this are something else.
const LIST_MAX: usize = 1024;

fn list_from_text<T: Setting>(text: &str, bounds: Bounds) -> Result<Vec<T>, Fault> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    bounded_list(parts.map(|part| T::from_text(part, bounds)).collect::<Result<_, _>>()?)
}

fn list_from_toml<T: Setting>(value: &DeValue<'_>, bounds: Bounds) -> Result<Vec<T>, Fault> {
    match value {
        DeValue::Array(values) => bounded_list(
            values
                .iter()
                .map(|value| T::from_toml(value.get_ref(), bounds))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::String(_) => Err(wrong_type(value, "an array", "put it in square brackets")),
        other => Err(wrong_type(other, "an array", "write [\"…\", \"…\"]")),
    }
}

fn bounded_list<T>(list: Vec<T>) -> Result<Vec<T>, Fault> {
    if list.len() > LIST_MAX {
        let reason = format!("has {} entries", list.len());
        return Err(Fault::new(reason, format!("give {LIST_MAX} at most")));
    }
    Ok(list)
}

macro_rules! list_setting {
    ($($type:ty = $name:expr;)*) => {$(
        impl Setting for Vec<$type> {
            const TYPE: &'static str = $name;

            fn from_text(text: &str, bounds: Bounds) -> Result<Self, Fault> {
                list_from_text(text, bounds)
            }

            fn from_toml(value: &DeValue<'_>, bounds: Bounds) -> Result<Self, Fault> {
                list_from_toml(value, bounds)
            }

            fn to_toml(&self) -> Option<String> {
                let entries: Vec<String> = self.iter().filter_map(Setting::to_toml).collect();
                Some(format!("[{}]", entries.join(", ")))
            }
        }
    )*};
}

list_setting! {
    String = "list of strings";
    Role = "list of `\"push\"` `\"gateway\"` `\"broker\"`";
}

impl Setting for PathBuf {
    const TYPE: &'static str = "path";

    fn from_text(text: &str, _: Bounds) -> Result<Self, Fault> {
        if text.is_empty() || text.contains('\0') {
            return Err(Fault::new(format!("{text:?} is not a path"), "name a file or directory"));
        }
        Ok(Self::from(text))
    }

    fn to_toml(&self) -> Option<String> {
        // A path is only ever made of a config's text, so nothing is lost here.
        Some(quoted(&self.to_string_lossy()))
    }
}

impl Setting for SocketAddr {
    const TYPE: &'static str = "address";

    fn from_text(text: &str, _: Bounds) -> Result<Self, Fault> {
        text.parse().map_err(|_| {
            Fault::new(
                format!("{text:?} is not an address to listen on"),
                "give an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080",
            )
        })
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl<T: Setting> Setting for Option<T> {
    const TYPE: &'static str = T::TYPE;

    fn from_text(text: &str, bounds: Bounds) -> Result<Self, Fault> {
        T::from_text(text, bounds).map(Some)
    }

    fn from_toml(value: &DeValue<'_>, bounds: Bounds) -> Result<Self, Fault> {
        T::from_toml(value, bounds).map(Some)
    }

    fn to_toml(&self) -> Option<String> {
        self.as_ref().and_then(Setting::to_toml)
    }
}

macro_rules! choice_setting {
    ($(#[doc = $doc:literal])* $name:ident { $( $(#[doc = $variant_doc:literal])* $variant:ident = $text:literal, )* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $( $(#[doc = $variant_doc])* $variant, )* }

        impl $name {
            /// Its name in a config.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $( Self::$variant => $text, )* } }
        }

        impl Setting for $name {
            const TYPE: &'static str = concat!("one of", $( " `\"", $text, "\"`", )*);

            fn from_text(text: &str, _: Bounds) -> Result<Self, Fault> {
                match text {
                    $( $text => Ok(Self::$variant), )*
                    other => Err(Fault::new(
                        format!("{other:?} is not one of its values"),
                        concat!("give one of:", $( " ", $text, )*),
                    )),
                }
            }

            fn to_toml(&self) -> Option<String> { Some(quoted(self.as_str())) }
        }
    };
}

choice_setting! {
    /// How log lines look.
    LogFormat {
        /// For people at a terminal.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

choice_setting! {
    /// What keeps the logs.
    StoreKind {
        /// The store inside the node, in a directory of its disk.
        Embedded = "embedded",
        /// Redis servers that the nodes of a cluster share.
        Redis = "redis",
    }
}

choice_setting! {
    /// How Redis servers stand together.
    RedisMode {
        /// One server, with or without replicas; nobody promotes a replica.
        Standalone = "standalone",
        /// Masters with replicas, watched by sentinels.
        Sentinel = "sentinel",
        /// A Redis Cluster.
        Cluster = "cluster",
    }
}

choice_setting! {
    /// What a node does.
    Role {
        /// Takes pushes and administration over HTTP.
        Push = "push",
        /// Holds the links of terminals.
        Gateway = "gateway",
        /// Owns logs.
        Broker = "broker",
    }
}

impl Role {
    /// All roles: what a node has that is not told otherwise.
    pub const ALL: [Self; 3] = [Self::Push, Self::Gateway, Self::Broker];
}
