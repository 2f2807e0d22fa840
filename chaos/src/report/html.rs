//! The report as one page that loads nothing: tables, and time lines as drawings.

use std::fmt::Write as _;

use super::{Cell, Report, Second};
use crate::interruption::Window;

/// Size of a drawing, pixels.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 110.0;
/// Points of a line at most: longer runs are drawn by the highest of several seconds.
const POINTS_MAX: usize = 1000;

const STYLE: &str = "
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1080px;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.good{color:#1a7f37}.bad{color:#b3261e;font-weight:600}.dim{color:#656d76}
svg{display:block;width:100%;height:auto;background:#f6f8fa;border-radius:4px;margin:.2rem 0 .8rem}
svg text{font:11px system-ui,sans-serif;fill:#656d76}
.fault{fill:#b3261e;opacity:.13}.healing{fill:#bf8700;opacity:.13}
.a{stroke:#0969da}.b{stroke:#8250df}.c{stroke:#b3261e}.line{fill:none;stroke-width:1.3}
.key{display:inline-block;width:1rem;height:.2rem;vertical-align:middle;margin:0 .3rem 0 1rem}
pre{white-space:pre-wrap;background:#f6f8fa;padding:.6rem;border-radius:4px;overflow-wrap:anywhere}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}svg,pre{background:#161b22}th,td{border-color:#30363d}}
";

/// A line of a drawing: its name, its class, and its value in each second.
type Line<'a> = (&'a str, &'a str, fn(&Second) -> f64);

pub(super) fn page(report: &Report) -> String {
    let run = &report.run;
    let good = report.is_good();
    let (class, verdict) = if good {
        ("good", "Every promise was kept, every interruption was within its limit.")
    } else {
        ("bad", "Something was not as it must be: see below.")
    };
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p class=\"{class}\">{verdict}</p>\
         <p class=\"dim\">World {world}, seed {seed}, {minutes:.1} minutes, {program}, commit {commit}.</p>",
        title = text(&format!("Clarion, broken on purpose: {}", run.scenario)),
        world = text(&run.world),
        seed = run.seed,
        minutes = report.duration_ms as f64 / 60_000.0,
        program = text(&run.program),
        commit = text(&run.commit),
    );
    components(&mut page, report);
    time_line(&mut page, report);
    faults(&mut page, &report.faults);
    promises(&mut page, report);
    page + "</html>\n"
}

fn components(page: &mut String, report: &Report) {
    page.push_str(
        "<h2>Is there a single point of failure?</h2><p>The longest interruptions while a component was \
         broken, and until all was whole again. Its own terminals are those that were linked to it.</p>\
         <table><tr><th>component<th>broken<th>pushes, s<th>deliveries, s<th>its own terminals, s\
         <th>accepted, lost<th>SDK users, again<th></tr>",
    );
    for row in &report.rows {
        for (index, cell) in row.cells.iter().enumerate() {
            let name = if index == 0 { text(&row.component) } else { String::new() };
            component(page, &name, cell);
        }
    }
    for skipped in &report.skipped {
        add(
            page,
            format_args!(
                "<tr><td>{}<td>{}<td colspan=\"6\" class=\"dim\">not done: {}</tr>",
                text(&skipped.component),
                text(&skipped.kind),
                text(&skipped.why)
            ),
        );
    }
    page.push_str("</table>");
    if !report.untouched.is_empty() {
        let names = text(&report.untouched.join(", "));
        add(page, format_args!("<p class=\"dim\">Nothing was done to {names}.</p>"));
    }
    add(
        page,
        format_args!(
            "<p>While nothing was broken: pushes {}; deliveries {}.</p>",
            report.quiet.push, report.quiet.delivery
        ),
    );
    for (class, told) in [("bad", &report.too_long), ("dim", &report.excused)] {
        for one in told {
            add(page, format_args!("<p class=\"{class}\">{}</p>", text(one)));
        }
    }
}

fn component(page: &mut String, name: &str, cell: &Cell) {
    let seconds = |ms: u64, limit: Option<f64>| {
        let within = limit.map_or_else(String::new, |limit| format!(" of {:.1}", limit / 1000.0));
        format!("{:.2}<span class=\"dim\">{within}</span>", ms as f64 / 1000.0)
    };
    let own = cell.own_ms.map_or_else(String::new, |own| seconds(own, cell.limit.own_ms));
    let (class, verdict) = match (cell.verdict(), cell.is_good) {
        ("", _) => ("good", "ok"),
        (verdict, true) => ("dim", verdict),
        (verdict, false) => ("bad", verdict),
    };
    let times = if cell.faults > 1 { format!(", {} times", cell.faults) } else { String::new() };
    add(
        page,
        format_args!(
            "<tr><td>{name}<td>{}{times}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{own}\
         <td class=\"n\">{}<td class=\"n\">{}<td class=\"{class}\">{verdict}</tr>",
            text(&cell.kind),
            seconds(cell.push_ms, cell.limit.push_ms),
            seconds(cell.delivery_ms, cell.limit.delivery_ms),
            cell.lost,
            cell.repeated,
        ),
    );
}

fn time_line(page: &mut String, report: &Report) {
    page.push_str(
        "<h2>Time line</h2><p class=\"dim\">Red: something was broken. Yellow: it was mended, and \
         not all was whole yet.</p>",
    );
    let drawings: [(&str, &[Line<'_>]); 5] = [
        (
            "Pushes a second",
            &[
                ("made", "a", |second| f64::from(second.pushed)),
                ("accepted", "b", |second| f64::from(second.accepted)),
            ],
        ),
        ("Deliveries a second", &[("delivered", "a", |second| f64::from(second.delivered))]),
        (
            "Refused, or without an answer, a second",
            &[("failed", "c", |second| f64::from(second.failed))],
        ),
        (
            "Milliseconds",
            &[
                ("push to acceptance, longest", "a", |second| second.push_max_ms),
                ("acceptance to delivery, p99", "b", |second| second.delivery_p99_ms),
            ],
        ),
        ("Sessions", &[("open", "a", |second| f64::from(second.sessions))]),
    ];
    for (title, lines) in drawings {
        drawing(page, title, lines, report);
    }
}

fn drawing(page: &mut String, title: &str, lines: &[Line<'_>], report: &Report) {
    let seconds = &report.seconds;
    let length = seconds.len().max(1) as f64;
    let each = seconds.len().div_ceil(POINTS_MAX).max(1);
    let top = lines.iter().flat_map(|(.., value)| seconds.iter().map(value)).fold(1.0, f64::max);
    add(page, format_args!("<div>{}", text(title)));
    for (name, class, _) in lines {
        let colour = match *class {
            "a" => "#0969da",
            "b" => "#8250df",
            _ => "#b3261e",
        };
        add(page, format_args!("<span class=\"key\" style=\"background:{colour}\"></span>{name}"));
    }
    add(page, format_args!("</div><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">"));
    let at = |ns: u64| ns as f64 / 1e9 / length * WIDTH;
    for fault in &report.faults {
        let end = fault.end().map_or(WIDTH, at);
        let mended = fault.mended.map_or(end, at);
        let hint = text(&format!("{} {}", fault.component, fault.what));
        for (class, from, to) in [("fault", at(fault.from), mended), ("healing", mended, end)] {
            let width = (to - from).max(0.0);
            add(
                page,
                format_args!(
                    "<rect class=\"{class}\" x=\"{from:.1}\" y=\"0\" width=\"{width:.1}\" \
                 height=\"{HEIGHT}\"><title>{hint}</title></rect>"
                ),
            );
        }
    }
    for (_, class, value) in lines {
        add(page, format_args!("<polyline class=\"line {class}\" points=\""));
        for (index, some) in seconds.chunks(each).enumerate() {
            let highest = some.iter().map(value).fold(0.0, f64::max);
            let x = (index * each) as f64 / length * WIDTH;
            add(
                page,
                format_args!("{x:.1},{:.1} ", HEIGHT - 4.0 - highest / top * (HEIGHT - 18.0)),
            );
        }
        page.push_str("\"/>");
    }
    add(
        page,
        format_args!(
            "<text x=\"4\" y=\"11\">{top:.0}</text><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{length:.0} s\
         </text></svg>",
            WIDTH - 4.0,
            HEIGHT - 4.0
        ),
    );
}

fn faults(page: &mut String, faults: &[Window]) {
    page.push_str(
        "<h2>Faults</h2><table><tr><th>at, s<th>component<th>what<th>mended, s<th>whole, s\
         <th>pushes accepted meanwhile<th>pushes stood, s<th>deliveries stood, s</tr>",
    );
    let seconds = |ns: u64| format!("{:.2}", ns as f64 / 1e9);
    for fault in faults {
        let after = |at: Option<u64>| {
            at.map_or_else(|| "never".to_owned(), |at| format!("+{}", seconds(at - fault.from)))
        };
        add(
            page,
            format_args!(
                "<tr><td class=\"n\">{}<td>{}<td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}\
             <td class=\"n\">{}<td class=\"n\">{}</tr>",
                seconds(fault.from),
                text(&fault.component),
                text(&fault.what),
                after(fault.mended),
                after(fault.healed),
                fault.accepted,
                seconds(fault.push),
                seconds(fault.delivery.max(fault.own.unwrap_or(0))),
            ),
        );
    }
    page.push_str("</table>");
}

fn promises(page: &mut String, report: &Report) {
    page.push_str("<h2>Promises</h2><table><tr><th><th>promise<th>broken</tr>");
    for promise in &report.promises {
        let class = if promise.violations == 0 { "good" } else { "bad" };
        add(
            page,
            format_args!(
                "<tr><td>{}<td>{}<td class=\"n {class}\">{}</tr>",
                promise.id,
                text(promise.promise),
                promise.violations
            ),
        );
    }
    page.push_str("</table>");
    if !report.violations.is_empty() {
        page.push_str("<h2>Violations</h2>");
        for violation in &report.violations {
            add(page, format_args!("<pre>{}</pre>", text(violation)));
        }
    }
}

fn add(page: &mut String, piece: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = page.write_fmt(piece);
}

/// `text`, in which nothing is markup.
fn text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}
