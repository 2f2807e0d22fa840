//! The macro that turns the table of keys into structs, reader, printer and key list.

use crate::setting::Bounds;

/// A section of the config file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub doc: &'static [&'static str],
    /// Its keys, in the order of the table.
    pub keys: &'static [Key],
}

/// A key of the config file.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name; numbers carry their unit in it.
    pub name: &'static str,
    /// Its type.
    pub kind: &'static str,
    /// What a value must satisfy.
    pub bounds: Bounds,
    /// What it means.
    pub doc: &'static [&'static str],
}

impl Key {
    /// The unit of a number, read off the name.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        if self.kind != "number" {
            return "";
        }
        let has = |part: &str| self.name.split('_').any(|p| p == part);
        if self.name.contains("_per_s") {
            "per second"
        } else if has("ms") {
            "ms"
        } else if has("us") {
            "us"
        } else if has("s") {
            "s"
        } else if has("days") {
            "days"
        } else if has("bytes") {
            "bytes"
        } else {
            "count"
        }
    }
}

macro_rules! config {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $struct:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $type:ty = $default:expr, $bounds:expr;
            )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
            pub struct $struct {
                $( $(#[doc = $doc])+ pub $key: $type, )+
            }

            impl Default for $struct {
                fn default() -> Self {
                    Self { $( $key: $default, )+ }
                }
            }
        )+

        /// The config of a node. `Config::default()` is what `clarion dev` starts from.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct Config {
            $( $(#[doc = $section_doc])+ pub $section: $struct, )+
        }

        /// Every section and key, in the order of the file.
        pub const SECTIONS: &[Section] = &[ $( Section {
            name: stringify!($section),
            doc: &[ $( $section_doc, )+ ],
            keys: &[ $( Key {
                name: stringify!($key),
                kind: <$type as Setting>::TYPE,
                bounds: $bounds,
                doc: &[ $( $doc, )+ ],
            }, )+ ],
        }, )+ ];

        impl Config {
            /// Sets a key. An unknown name is a fault of the caller's: nothing is set.
            pub(crate) fn set(
                &mut self,
                section: &str,
                key: &str,
                value: Raw<'_, '_>,
            ) -> Result<(), Fault> {
                match (section, key) {
                    $( $( (stringify!($section), stringify!($key)) => {
                        self.$section.$key = value.read($bounds)?;
                    } )+ )+
                    _ => {}
                }
                Ok(())
            }

            /// A key's value as TOML; none when it is not set.
            #[must_use]
            pub fn get(&self, section: &str, key: &str) -> Option<String> {
                match (section, key) {
                    $( $( (stringify!($section), stringify!($key)) => {
                        self.$section.$key.to_toml()
                    } )+ )+
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use config;
