//! The page with plots. Self-contained: styles and plots are inline, nothing is fetched and no script is needed.

use super::summary::{PHASES, Summary, summaries};
use super::table::ms;
use super::{Report, RunRecord, escaped, svg};

const STYLE: &str = include_str!("style.css");

pub(super) fn page(report: &Report) -> String {
    let summaries = summaries(&report.runs);
    let (word, class) = if report.is_good() { ("all good", "good") } else { ("not all good", "bad") };
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{title}</title><style>{STYLE}</style></head><body><main>\n\
         <h1>{title} <span class=\"verdict {class}\">{word}</span></h1>\n",
        title = escaped(&report.title),
    );
    out.push_str(&format!(
        "<p class=\"about\">{}</p>\n",
        report.about.iter().map(|line| escaped(line)).collect::<Vec<_>>().join(" · ")
    ));
    out.push_str(&totals(report, &summaries));
    out.push_str(&overview(&summaries));
    out.push_str(&phases(&summaries));
    out.push_str("<h2>Runs</h2>\n");
    out.push_str(
        "<p class=\"legend\"><i class=\"primary\"></i> primary <i class=\"appointed\"></i> appointed, door closed <i \
         class=\"standby\"></i> standby <i class=\"other\"></i> neither <i class=\"unseen\"></i> unseen <i class=\"fault\"></i> \
         fault <i class=\"gap\"></i> writes stopped <i class=\"ok\"></i> acknowledged <i class=\"unknown\"></i> unknown; dashed \
         lines begin an epoch</p>\n",
    );
    for run in &report.runs {
        out.push_str(&section(run));
    }
    out.push_str("</main></body></html>\n");
    out
}

/// The figures that matter most.
fn totals(report: &Report, summaries: &[Summary]) -> String {
    use crate::check::Kind;
    let count = |kind| summaries.iter().map(|summary| summary.count(kind)).sum::<usize>();
    let all = |pick: fn(&Summary) -> usize| summaries.iter().map(pick).sum::<usize>();
    let tile = |value: usize, name: &str, must_be_none: bool| {
        let class = if must_be_none && value > 0 { " bad" } else { "" };
        format!("<div class=\"tile{class}\"><b>{value}</b>{name}</div>")
    };
    let faults: usize = summaries.iter().flat_map(|summary| summary.faults.values()).sum();
    let skipped = report.runs.iter().filter(|run| run.skipped.is_some()).count();
    format!(
        "<div class=\"tiles\">{}{}{}{}{}{}{}{}</div>\n",
        tile(all(|summary| summary.runs), "runs", false),
        tile(skipped, "not run here", false),
        tile(faults, "faults fired", false),
        tile(all(|summary| summary.acknowledged), "commits acknowledged", false),
        tile(all(|summary| summary.unknown), "of unknown end", false),
        tile(count(Kind::Lost), "lost", true),
        tile(count(Kind::Resurrected), "resurrected", true),
        tile(count(Kind::UnneededFailover), "unneeded failovers", true),
    )
}

fn overview(summaries: &[Summary]) -> String {
    let mut out = String::from(
        "<h2>Scenarios</h2>\n<table><thead><tr><th>scenario</th><th>n</th><th>median</th><th>p95</th><th>maximum</th>\
         <th>bar</th><th class=\"plot\">each write gap</th><th>violations</th><th>unknown</th><th></th></tr></thead><tbody>\n",
    );
    for summary in summaries {
        let number =
            summary.number.map_or_else(String::new, |number| format!("<span class=\"number\">{number}</span> "));
        let bar = summary.bar.map_or_else(String::new, |bar| format!("{:.0} / {:.0}", bar.median_ms, bar.max_ms));
        let violations: Vec<String> = summary.violations.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        let violations = if violations.is_empty() { "none".to_owned() } else { violations.join(", ") };
        let (word, class) = match (summary.runs, summary.is_good()) {
            (0, _) => ("not run", "dim"),
            (_, true) => ("ok", "good"),
            (_, false) => ("failed", "bad"),
        };
        let gap = |share| if summary.runs == 0 { String::new() } else { ms(summary.gap(share)) };
        let story = summary.skipped.as_ref().unwrap_or(&summary.story);
        out.push_str(&format!(
            "<tr><td>{number}<b>{}</b><br><span class=\"story\">{}</span></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{bar}</td><td class=\"plot\">{}</td><td>{}</td><td>{}</td><td><span class=\"verdict {class}\">{word}</span></td></tr>\n",
            escaped(&summary.scenario),
            escaped(story),
            summary.runs,
            gap(0.5),
            gap(0.95),
            gap(1.0),
            if summary.runs == 0 { String::new() } else { svg::gaps(summary) },
            escaped(&violations),
            summary.unknown,
        ));
    }
    out.push_str("</tbody></table>\n<p class=\"dim\">Milliseconds without an acknowledged commit, over all clients that name every host.</p>\n");
    out
}

/// Where the time of a change of primary goes: one bar for each scenario, of the phases' medians.
fn phases(summaries: &[Summary]) -> String {
    let with: Vec<&Summary> = summaries.iter().filter(|summary| !summary.phases.is_empty()).collect();
    if with.is_empty() {
        return String::new();
    }
    let sum = |summary: &Summary| (0..PHASES.len()).filter_map(|phase| summary.phase(phase, 0.5)).sum::<f64>();
    let longest = with.iter().map(|summary| sum(summary)).fold(1.0, f64::max);
    let mut out = String::from("<h2>Phases of a change of primary</h2>\n<table><thead><tr><th>scenario</th><th>n</th>");
    for name in PHASES {
        out.push_str(&format!("<th>{name}<br><span class=\"dim\">median / max</span></th>"));
    }
    out.push_str("<th class=\"plot\">medians</th></tr></thead><tbody>\n");
    for summary in with {
        out.push_str(&format!("<tr><td><b>{}</b></td><td>{}</td>", escaped(&summary.scenario), summary.phases.len()));
        let mut bars = String::new();
        let mut at = 0.0;
        for (phase, name) in PHASES.iter().enumerate() {
            let (median, max) = (summary.phase(phase, 0.5), summary.phase(phase, 1.0));
            out.push_str(&format!("<td>{} / {}</td>", ms(median), ms(max)));
            let width = median.unwrap_or(0.0) / longest * 320.0;
            bars.push_str(&format!(
                "<rect class=\"p{phase}\" x=\"{at:.1}\" y=\"3\" width=\"{width:.1}\" height=\"14\"><title>{name} {} ms</title></rect>",
                ms(median),
            ));
            at += width;
        }
        out.push_str(&format!(
            "<td class=\"plot\"><svg class=\"dots\" viewBox=\"0 0 320 20\">{bars}</svg></td></tr>\n"
        ));
    }
    out.push_str("</tbody></table>\n<p class=\"legend\">");
    for (phase, name) in PHASES.iter().enumerate() {
        out.push_str(&format!("<i class=\"p{phase}\"></i> {name} "));
    }
    out.push_str("</p>\n");
    out
}

fn section(run: &RunRecord) -> String {
    let (word, class) = match (&run.skipped, run.is_good()) {
        (Some(_), _) => ("not run", "dim"),
        (None, true) => ("ok", "good"),
        (None, false) => ("failed", "bad"),
    };
    let counts = run.verdict.counts;
    let open = if run.skipped.is_none() && !run.is_good() { " open" } else { "" };
    let mut out = format!(
        "<details{open}><summary><span class=\"verdict {class}\">{word}</span> <b>{}</b> <span class=\"dim\">seed {}, {:.1} s, {} \
         acknowledged, {} unknown ({} of them present), {} reads</span></summary>\n<p class=\"story\">{}</p>\n",
        escaped(&run.scenario),
        run.seed,
        run.length_us as f64 / 1e6,
        counts.acknowledged,
        counts.unknown,
        counts.unknown_present,
        counts.reads,
        escaped(&run.story),
    );
    if let Some(why) = &run.skipped {
        out.push_str(&format!("<p>{}</p></details>\n", escaped(why)));
        return out;
    }
    out.push_str(&svg::timeline(run));
    let violations = run.verdict.violations.iter().map(|violation| format!("{}: {}", violation.kind, violation.text));
    let problems: Vec<String> = run.failures.iter().cloned().chain(violations).collect();
    out.push_str(&list("problems", &problems));
    out.push_str(&list("notes", &run.verdict.notes));
    let faults = run.faults.iter().map(|fault| {
        let until = fault.until_us.map_or_else(String::new, |until| format!(" until {:.1} s", until as f64 / 1e6));
        format!("{:.1} s{until}: {} of {}", fault.from_us as f64 / 1e6, fault.kind, fault.target)
    });
    out.push_str(&list("faults", &faults.collect::<Vec<_>>()));
    let incidents = run.incidents.iter().map(|incident| {
        let phases: Vec<String> =
            incident.phases.iter().map(|phase| format!("{} {} ms", phase.name, phase.after_ms)).collect();
        let loss = if incident.possible_data_loss { ", POSSIBLE DATA LOSS" } else { "" };
        format!(
            "epoch {}: {} from {} to {}, {}{loss}: {} ({})",
            incident.number,
            incident.kind,
            incident.from,
            incident.to,
            incident.outcome,
            incident.reason,
            phases.join(", ")
        )
    });
    out.push_str(&list("changes of primary", &incidents.collect::<Vec<_>>()));
    out.push_str(&format!("<p>again: <code>{}</code></p>", escaped(&run.repeat)));
    if let Some(kept) = &run.kept {
        out.push_str(&format!("<p>kept: <code>{}</code></p>", escaped(kept)));
    }
    out.push_str("</details>\n");
    out
}

fn list(name: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let items: String = lines.iter().map(|line| format!("<li>{}</li>", escaped(line))).collect();
    format!("<p class=\"{name}\">{name}</p><ul class=\"{name}\">{items}</ul>\n")
}
