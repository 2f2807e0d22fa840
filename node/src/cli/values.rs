//! Values of options that clap cannot read by itself.

use std::time::Duration;

use clarion_protocol::http::TerminalKind;

/// A number with its unit: `90s`, `15m`, `12h`, `3d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 90s, 15m, 12h or 3d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// The name of a kind of terminal.
pub(crate) fn kind(text: &str) -> Result<TerminalKind, String> {
    serde_json::from_value(serde_json::Value::from(text))
        .map_err(|_| format!("{text:?} is none of android, ios, pc, web, device"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("3d").unwrap(), Duration::from_secs(259_200));
        assert_eq!(duration("0s").unwrap(), Duration::ZERO);
        for wrong in
            ["", "s", "90", "-1s", "1.5h", "9y", "99999999999999999999d", "1ü", "213503982334602d"]
        {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn kinds_are_named_as_on_the_wire() {
        assert_eq!(kind("ios").unwrap(), TerminalKind::Ios);
        assert!(kind("phone").unwrap_err().contains("android, ios"));
    }
}
