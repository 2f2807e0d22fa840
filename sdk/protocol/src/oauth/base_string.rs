//! The text that is signed (RFC 5849, section 3.4.1).

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// Everything but RFC 3986's unreserved characters (RFC 5849, section 3.6).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Appends `bytes` percent-encoded.
pub(super) fn encode_into(out: &mut String, bytes: &[u8]) {
    out.extend(percent_encode(bytes, RESERVED));
}

/// The signature base string of a request: its method, the base of its URL, and all parameters:
/// those of the URL's query and `parameters`, which are given decoded and without `realm` and
/// `oauth_signature`.
#[must_use]
pub fn signature_base_string<'a>(
    method: &str,
    url: &str,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> String {
    let (base, query) = split_query(url);
    let mut pairs: Vec<(String, String)> =
        query_pairs(query).map(|(name, value)| (encoded(&name), encoded(&value))).collect();
    let given = |(name, value): (&str, &str)| (encoded(name.as_bytes()), encoded(value.as_bytes()));
    pairs.extend(parameters.into_iter().map(given));
    // Section 3.4.1.3.2: by encoded name, then by encoded value.
    pairs.sort_unstable();

    let mut out = String::with_capacity(url.len() + 384);
    encode_into(&mut out, method.to_ascii_uppercase().as_bytes());
    out.push('&');
    encode_into(&mut out, base_uri(base).as_bytes());
    out.push('&');
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push_str("%26");
        }
        encode_into(&mut out, name.as_bytes());
        out.push_str("%3D");
        encode_into(&mut out, value.as_bytes());
    }
    out
}

fn encoded(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    encode_into(&mut out, bytes);
    out
}

/// The URL without query and fragment, and the query.
pub(super) fn split_query(url: &str) -> (&str, &str) {
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    url.split_once('?').unwrap_or((url, ""))
}

/// The pairs of a query, decoded as a form (section 3.4.1.3.1): `+` is a space, a name without
/// `=` has an empty value. What is not a percent escape stands for itself.
pub(super) fn query_pairs(query: &str) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decoded(name), form_decoded(value))
    })
}

fn form_decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        Cow::Owned(percent_decode(spaced.as_bytes()).collect())
    } else {
        percent_decode(text.as_bytes()).into()
    }
}

/// The base string URI (section 3.4.1.2): scheme and host in lower case, the scheme's own port
/// dropped, the path as it is sent. `ws` and `wss` count as `http` and `https`: an upgrade is a
/// request. A text that is no URL stays as it is; its signature then fits nothing.
fn base_uri(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "ws" => "http".to_owned(),
        "wss" => "https".to_owned(),
        other => other.to_owned(),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let authority = authority.to_ascii_lowercase();
    let own_port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let authority = match authority.strip_suffix(own_port) {
        // `[::80` would be half an address, not a port.
        Some(host) if !host.starts_with('[') || host.ends_with(']') => host,
        _ => &authority,
    };
    format!("{scheme}://{authority}{path}")
}
