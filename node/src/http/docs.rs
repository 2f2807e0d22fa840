//! `GET /docs/codes`: the table of codes as a page; `doc_url` of every problem leads there.

use std::fmt::Write as _;
use std::sync::OnceLock;

use axum::http::StatusCode;
use bytes::Bytes;
use clarion_protocol::{Code, Retry};

use super::problem::Answer;
use super::request::{Call, text};

/// The content type of the page.
pub(super) const HTML_TYPE: &str = "text/html; charset=utf-8";

/// The page.
pub(super) async fn codes(_: Call) -> Answer {
    static PAGE: OnceLock<Bytes> = OnceLock::new();
    let page = PAGE.get_or_init(|| page().into()).clone();
    Ok(text(StatusCode::OK, HTML_TYPE, page))
}

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Clarion codes</title>
<meta name="viewport" content="width=device-width">
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#222;background:#fff}
h2{font:600 1.1rem/1.4 ui-monospace,monospace;margin:2rem 0 0}
h2 small{font-weight:400;color:#555}
p{margin:.25rem 0}:target{background:#fff3bf}a{color:inherit}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}h2 small{color:#aaa}
:target{background:#4a3f00}}
</style></head><body><h1>Codes</h1>
<p>1000-1999 answer a request. 4000-4099 end a link or session that may connect again with back-off,
4100-4199 one that needs a new token first, 4200-4999 one that is not to reconnect.</p>
"#;

fn page() -> String {
    let mut page = String::from(HEAD);
    for &code in Code::ALL {
        let retry = match code.retry() {
            Retry::Never => "do not repeat it unchanged",
            Retry::Later => "repeat it later",
            Retry::Reauthenticate => "repeat it with fresh credentials",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            r##"<h2 id="{code}"><a href="#{code}">{code}</a> <small>{} · HTTP {}</small></h2>
<p>{}</p><p>{} <em>({retry})</em></p>"##,
            code.number(),
            code.http_status(),
            escaped(code.title()),
            escaped(code.help()),
        );
    }
    page.push_str("</body></html>\n");
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_an_anchor_for_every_code() {
        let page = page();
        for &code in Code::ALL {
            assert_eq!(page.matches(&format!("id=\"{code}\"")).count(), 1, "{code}");
            assert!(page.contains(&escaped(code.help())), "{code}");
        }
    }
}
