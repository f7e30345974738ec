//! Plots as inline SVG. Colours come from the page's style sheet, by class.

use super::record::{RunRecord, SpanRole};
use super::{escaped, summary::Summary};

/// Width of a plot, and of the names to its left.
const WIDTH: f64 = 1000.0;
const NAMES: f64 = 110.0;
const LANE: f64 = 18.0;
const RATES: f64 = 70.0;

/// The timeline of one run: faults, roles, epochs, acknowledged writes per second, all over one axis of time.
pub(super) fn timeline(run: &RunRecord) -> String {
    let length = run.length_us.max(1) as f64;
    let x = |us: u64| NAMES + (WIDTH - NAMES - 10.0) * (us as f64 / length).min(1.0);
    let lanes = 1 + run.members.len();
    let rates_top = 22.0 + lanes as f64 * LANE + 8.0;
    let bottom = rates_top + RATES;
    let height = bottom + 24.0;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"timeline of {}\">",
        escaped(&run.scenario)
    );

    // Epochs: a line from top to bottom, named at the top.
    let mut named_until = 0.0;
    for epoch in &run.epochs {
        let at = x(epoch.from_us);
        out.push_str(&format!("<line class=\"epoch\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"16\" y2=\"{bottom}\"/>"));
        // Names that would overlap are left to the tooltip.
        if at >= named_until {
            let name = format!("e{} {}", epoch.epoch, epoch.primary);
            named_until = at + 7.0 * name.chars().count() as f64 + 6.0;
            out.push_str(&format!("<text class=\"small\" x=\"{at:.1}\" y=\"12\">{}</text>", escaped(&name)));
        }
    }

    let mut y = 22.0;
    out.push_str(&format!("<text x=\"0\" y=\"{:.1}\">faults</text>", y + 13.0));
    for fault in &run.faults {
        let (from, until) = (x(fault.from_us), x(fault.until_us.unwrap_or(fault.from_us)));
        let width = (until - from).max(4.0);
        out.push_str(&format!(
            "<rect class=\"fault\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{}\" rx=\"2\"><title>{}</title></rect>",
            y + 2.0,
            LANE - 4.0,
            escaped(&format!("{} of {} at {:.1} s", fault.kind, fault.target, fault.from_us as f64 / 1e6)),
        ));
    }
    for member in &run.members {
        y += LANE;
        out.push_str(&format!("<text x=\"0\" y=\"{:.1}\">{}</text>", y + 13.0, escaped(member)));
        for span in run.roles.iter().filter(|span| span.member == *member) {
            let (from, until) = (x(span.from_us), x(span.until_us.unwrap_or(run.length_us)));
            let word = role(span.role);
            out.push_str(&format!(
                "<rect class=\"{word}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{}\"><title>{} {word} from {:.1} s</title></rect>",
                y + 2.0,
                (until - from).max(1.0),
                LANE - 4.0,
                escaped(member),
                span.from_us as f64 / 1e6,
            ));
        }
    }

    let most = run.rates.iter().map(|rate| rate.ok + rate.unknown).max().unwrap_or(0).max(1);
    out.push_str(&format!("<text x=\"0\" y=\"{:.1}\">writes/s</text>", rates_top + 13.0));
    out.push_str(&format!("<text class=\"small\" x=\"0\" y=\"{:.1}\">up to {most}</text>", rates_top + 27.0));
    for rate in &run.rates {
        let (from, until) = (x(u64::from(rate.second) * 1_000_000), x((u64::from(rate.second) + 1) * 1_000_000));
        let width = (until - from - 0.5).max(0.5);
        let tall = |count: u32| f64::from(count) / f64::from(most) * RATES;
        let (ok, unknown) = (tall(rate.ok), tall(rate.unknown));
        out.push_str(&format!(
            "<rect class=\"ok\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{ok:.1}\"><title>second {}: {} acknowledged, {} unknown, {} refused</title></rect>",
            bottom - ok,
            rate.second,
            rate.ok,
            rate.unknown,
            rate.fail,
        ));
        if rate.unknown > 0 {
            out.push_str(&format!(
                "<rect class=\"unknown\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{unknown:.1}\"/>",
                bottom - ok - unknown,
            ));
        }
    }
    for gap in run.gaps.iter().filter(|gap| gap.client.is_none()) {
        let (from, until) = (x(gap.from_us), x(gap.until_us.unwrap_or(run.length_us)));
        out.push_str(&format!(
            "<rect class=\"gap\" x=\"{from:.1}\" y=\"{rates_top}\" width=\"{:.1}\" height=\"{RATES}\"><title>writes stopped for {}</title></rect>",
            (until - from).max(1.0),
            length_words(gap.length_ms()),
        ));
    }

    out.push_str(&format!(
        "<line class=\"axis\" x1=\"{NAMES}\" x2=\"{}\" y1=\"{bottom}\" y2=\"{bottom}\"/>",
        WIDTH - 10.0
    ));
    let step = nice_step(length / 1e6 / 10.0);
    let mut at = 0.0;
    while at <= length / 1e6 {
        let place = x((at * 1e6) as u64);
        out.push_str(&format!("<text class=\"small\" x=\"{place:.1}\" y=\"{:.1}\">{at} s</text>", bottom + 14.0));
        at += step;
    }
    out.push_str("</svg>");
    out
}

/// All write gaps of one scenario as dots over a logarithmic axis, with the bar where there is one.
pub(super) fn gaps(summary: &Summary) -> String {
    const HEIGHT: f64 = 34.0;
    const WIDTH: f64 = 320.0;
    // From 10 ms to 5 minutes and beyond.
    let x = |ms: f64| 6.0 + (WIDTH - 12.0) * ((ms.clamp(10.0, 400_000.0) / 10.0).log10() / 40_000f64.log10());
    let mut out =
        format!("<svg class=\"dots\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"write gaps\">");
    for (ms, name) in [(10.0, "10 ms"), (100.0, "0.1 s"), (1_000.0, "1 s"), (10_000.0, "10 s"), (100_000.0, "100 s")] {
        let at = x(ms);
        out.push_str(&format!("<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"2\" y2=\"20\"/>"));
        out.push_str(&format!("<text class=\"tiny\" x=\"{at:.1}\" y=\"31\">{name}</text>"));
    }
    if let Some(bar) = summary.bar {
        for ms in [bar.median_ms, bar.max_ms] {
            let at = x(ms);
            out.push_str(&format!(
                "<line class=\"bar\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"2\" y2=\"20\"><title>bar {ms} ms</title></line>"
            ));
        }
    }
    for ms in &summary.gaps {
        let at = x(if ms.is_finite() { *ms } else { 400_000.0 });
        out.push_str(&format!(
            "<circle cx=\"{at:.1}\" cy=\"11\" r=\"3.5\"><title>{}</title></circle>",
            length_words(*ms)
        ));
    }
    out.push_str("</svg>");
    out
}

/// The class and word of a role.
pub(super) fn role(role: SpanRole) -> &'static str {
    match role {
        SpanRole::Primary => "primary",
        SpanRole::Appointed => "appointed",
        SpanRole::Standby => "standby",
        SpanRole::Other => "other",
        SpanRole::Unseen => "unseen",
    }
}

fn length_words(ms: f64) -> String {
    if ms.is_finite() { format!("{ms:.0} ms") } else { "ever".to_owned() }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(0.1).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}
