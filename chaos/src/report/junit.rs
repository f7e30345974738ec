//! JUnit XML, which every CI reads.

use super::{Report, RunRecord, Summary, escaped, summaries};

pub(super) fn junit(report: &Report) -> String {
    let bad_bars: Vec<Summary> = summaries(&report.runs).into_iter().filter(|summary| !summary.meets_bars()).collect();
    let failures = report.runs.iter().filter(|run| run.skipped.is_none() && !run.is_good()).count() + bad_bars.len();
    let skipped = report.runs.iter().filter(|run| run.skipped.is_some()).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" \
         skipped=\"{skipped}\" time=\"{:.3}\">\n",
        escaped(&report.title),
        report.runs.len() + bad_bars.len(),
        report.runs.iter().map(|run| run.length_us).sum::<u64>() as f64 / 1e6,
    );
    for run in &report.runs {
        out.push_str(&case(run));
    }
    for summary in bad_bars {
        let what = format!("median {:?} ms, maximum {:?} ms", summary.gap(0.5), summary.gap(1.0));
        out.push_str(&format!(
            "<testcase classname=\"bars\" name=\"{}\"><failure message=\"writes stopped for longer than allowed\">{}\
             </failure></testcase>\n",
            escaped(&summary.scenario),
            escaped(&what),
        ));
    }
    out.push_str("</testsuite>\n</testsuites>\n");
    out
}

fn case(run: &RunRecord) -> String {
    let mut inner = String::new();
    if let Some(why) = &run.skipped {
        inner = format!("<skipped message=\"{}\"/>", escaped(why));
    } else if !run.is_good() {
        let violations =
            run.verdict.violations.iter().map(|violation| format!("{}: {}", violation.kind, violation.text));
        let lines: Vec<String> = run.failures.iter().cloned().chain(violations).collect();
        let first = lines.first().cloned().unwrap_or_default();
        let text = format!("{}\nagain: {}", lines.join("\n"), run.repeat);
        inner = format!("<failure message=\"{}\">{}</failure>", escaped(&first), escaped(&text));
    }
    format!(
        "<testcase classname=\"chaos\" name=\"{} (seed {})\" time=\"{:.3}\">{inner}</testcase>\n",
        escaped(&run.scenario),
        run.seed,
        run.length_us as f64 / 1e6,
    )
}
