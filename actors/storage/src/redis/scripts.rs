//! The scripts, each a named file, with the pieces in front of it that it needs. The first line says
//! how Redis judges it before it runs: what may grow the store is refused as a whole when Redis is at
//! its `maxmemory`; what settles or removes goes on.

use super::link::Script;

macro_rules! scripts {
    ($($name:ident = $file:literal, $first:literal, [$($lib:literal)*];)*) => {
        $(
            pub(super) static $name: Script = Script::new($file, concat!(
                $first, "\n",
                $(include_str!(concat!("scripts/lib/", $lib, ".lua")), "\n",)*
                include_str!(concat!("scripts/", $file, ".lua")),
            ));
        )*
    };
}

scripts! {
    APPEND = "append", "#!lua", ["still" "time" "meta" "entry" "rows" "inbox" "inbox_remove" "stream" "prune"];
    ATTACH = "attach", "#!lua", ["time" "meta" "record"];
    CLAIM = "claim", "#!lua", ["time"];
    CLOSE = "close", "#!lua flags=allow-oom", ["still" "time" "meta" "told"];
    COUNT = "count", "#!lua flags=allow-oom", ["still" "time" "meta" "entry" "rows" "inbox" "inbox_remove" "passing" "trim" "told"];
    DELIVERED = "delivered", "#!lua flags=allow-oom", ["still" "time" "entry" "rows"];
    DEPART = "depart", "#!lua", ["time" "meta" "record"];
    DETACH = "detach", "#!lua flags=allow-oom", ["time" "meta" "record"];
    ENLIST = "enlist", "#!lua", [];
    ERASE = "erase", "#!lua flags=allow-oom", ["still" "time" "meta" "entry" "rows" "inbox" "inbox_remove" "record"];
    FINISH = "finish", "#!lua", [];
    JOIN = "join", "#!lua", ["still" "time" "meta" "rows" "inbox" "passing"];
    LEAVE = "leave", "#!lua flags=allow-oom", ["still" "time" "meta" "entry" "rows" "inbox" "inbox_remove" "passing" "trim" "told"];
    LEFT = "left", "#!lua flags=allow-oom", ["time" "meta" "record"];
    LINEAGE = "lineage", "#!lua", [];
    LIST = "list", "#!lua flags=no-writes", [];
    LOG = "log", "#!lua flags=no-writes", ["time" "meta"];
    NONCE = "nonce", "#!lua", ["time"];
    NOTE = "note", "#!lua", [];
    PLACE = "place", "#!lua flags=no-writes", ["still" "time" "rows"];
    PRODUCT = "product", "#!lua", ["still"];
    PRODUCTS = "products", "#!lua flags=no-writes", ["still"];
    READ = "read", "#!lua flags=no-writes", ["still" "time" "meta" "entry" "inbox" "stream"];
    READERS = "readers", "#!lua flags=no-writes", [];
    RECORD = "record", "#!lua flags=no-writes", ["time" "meta"];
    SAVE = "save", "#!lua flags=allow-oom", ["still" "time" "meta" "entry" "rows" "inbox" "inbox_remove" "record"];
    STRIKE = "strike", "#!lua flags=allow-oom", [];
    SWEEP = "sweep", "#!lua flags=allow-oom", ["still" "time" "meta" "entry" "rows" "inbox" "inbox_remove" "stream" "prune" "record" "told"];
    TICKET = "ticket", "#!lua flags=allow-oom", ["time" "meta" "record"];
    TOUCH = "touch", "#!lua flags=allow-oom", ["time" "meta" "record"];
}
