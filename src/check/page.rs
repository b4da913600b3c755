//! A report as one self-contained page: the distributions before and now, no script, nothing fetched.

use std::fmt::Write;

use crate::alert::Level;

use super::{CauseReport, FeatureReport, Report};

/// Width of a chart's labels, of its bars, and of the shares beside them, in px.
const LABEL: f64 = 170.0;
const BARS: f64 = 300.0;
const SHARES: f64 = 110.0;
/// Height of a bin: two bars and the space below.
const BIN: f64 = 20.0;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --faint: #66707d; --paper: #fff; --line: #d9dee5; --before: #9aa7b5; --now: #1f6feb;
  --ok: #1a7f37; --warning: #9a6700; --critical: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --faint: #98a2ae; --paper: #14181e; --line: #323a45; --before: #667384;
  --now: #58a6ff; --ok: #3fb950; --warning: #d29922; --critical: #f85149; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0.2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin: 0 0 0.3rem; }
p.faint, .faint { color: var(--faint); } .ok { color: var(--ok); } .warning { color: var(--warning); } .critical { color: var(--critical); }
.verdict { font-size: 1.1rem; border-left: 4px solid currentColor; padding-left: 0.8rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: right; padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; } th:first-child, td:first-child { text-align: left; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(500px, 1fr)); gap: 1.6rem; } figure { margin: 0; overflow-x: auto; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } svg .share { fill: var(--faint); }
.before { fill: var(--before); } .now { fill: var(--now); } .key span { display: inline-block; width: 0.8em; height: 0.8em; margin: 0 0.3em 0 1em; }
";

/// Returns the page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut html = String::new();
    let title = format!("{}: {}", report.spec, report.at);
    html.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    push(&mut html, format_args!("<title>Drift of {}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n", escaped(&title)));
    head(&mut html, report);
    causes(&mut html, report);
    error(&mut html, report);
    html.push_str("<h2>Before and now</h2>\n<p class=\"key faint\">Share of the rows in each bin: ");
    html.push_str("<span style=\"background:var(--before)\"></span>baseline <span style=\"background:var(--now)\"></span>window. ");
    html.push_str("Largest change first.</p>\n<div class=\"charts\">\n");
    let target = &report.target;
    let caption = format!("KS distance {:.4}, p {}", target.ks_hist, probability(target.ks_hist_log_p));
    let distribution = &target.distribution;
    chart(&mut html, &format!("{} (target)", distribution.column), &caption, &distribution.bins, (&distribution.before, &distribution.now));
    if let Some(clusters) = &report.clusters {
        let caption = format!("all features together: PSI {:.4}, p {}", clusters.psi, probability(clusters.psi_log_p));
        chart(&mut html, "clusters", &caption, &clusters.bins, (&clusters.baseline_counts, &clusters.counts));
    }
    for (name, feature) in by_change(report) {
        let caption = format!("PSI {:.4}, p {}", feature.psi, probability(feature.psi_log_p));
        chart(&mut html, name, &caption, &feature.bins, (&feature.baseline_counts, &feature.counts));
    }
    html.push_str("</div>\n</body>\n</html>\n");
    html
}

fn head(html: &mut String, report: &Report) {
    push(html, format_args!("<h1>{}</h1>\n", escaped(&report.spec)));
    let baseline = &report.baseline;
    push(
        html,
        format_args!(
            "<p class=\"faint\">Model {}. {} tickets that completed from {} to {} ({} days), against {} tickets of baseline {} ({} to {}). Times are UTC, ends exclusive.</p>\n",
            escaped(&report.model),
            report.rows,
            report.from,
            report.at,
            report.window_days,
            baseline.rows,
            baseline.version,
            baseline.from,
            baseline.to,
        ),
    );
    let class = report.status.map_or("faint", Level::name);
    push(html, format_args!("<p class=\"verdict {class}\">{}</p>\n", escaped(&report.summary)));
    if let Some(late) = report.late_since.filter(|late| *late > 0) {
        push(html, format_args!("<p class=\"faint\">{late} tickets of this window came after its verdict and are not in it.</p>\n"));
    }
    html.push_str("<h2>What to do</h2>\n<ul>\n");
    for deed in &report.recommendations {
        push(html, format_args!("<li>{}</li>\n", escaped(deed)));
    }
    html.push_str("</ul>\n");
}

fn causes(html: &mut String, report: &Report) {
    html.push_str("<h2>Causes</h2>\n<table>\n<tr><th>Cause</th><th>Level</th><th>Effect</th><th>Warning above</th><th>Critical above</th>");
    html.push_str("<th>p against the baseline's own noise</th></tr>\n");
    let mut all: Vec<(&String, &CauseReport)> = report.causes.iter().collect();
    all.sort_by(|a, b| b.1.level.cmp(&a.1.level).then((b.1.effect / b.1.critical).total_cmp(&(a.1.effect / a.1.critical))));
    for (name, cause) in all {
        let p = cause.calibrated_log_p.map_or_else(|| "uncalibrated".to_owned(), probability);
        let level = if cause.decides { cause.level.name() } else { "shown only" };
        push(
            html,
            format_args!(
                "<tr><td>{}</td><td class=\"{}\">{level}</td><td>{:.4}</td><td>{}</td><td>{}</td><td>{p}</td></tr>\n",
                escaped(name),
                cause.level.name(),
                cause.effect,
                cause.warning,
                cause.critical
            ),
        );
    }
    html.push_str("</table>\n");
}

fn error(html: &mut String, report: &Report) {
    let error = &report.error;
    let shown = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.1}"));
    push(
        html,
        format_args!(
            "<h2>Error</h2>\n<p>Series {}: mean absolute error {} over {} tickets; baseline {}; ratio {}.</p>\n",
            escaped(&error.series),
            shown(error.mae_ms),
            error.rows,
            shown(error.baseline_mae_ms),
            error.mae_ratio.map_or_else(|| "unknown".to_owned(), |ratio| format!("{ratio:.3}")),
        ),
    );
}

fn by_change(report: &Report) -> Vec<(&String, &FeatureReport)> {
    let mut features: Vec<_> = report.features.iter().collect();
    features.sort_by(|a, b| b.1.psi.total_cmp(&a.1.psi));
    features
}

/// Draws two shares a bin; empty bins at the end (missing, non-finite, unseen) are left out when both sides have none.
fn chart(html: &mut String, title: &str, caption: &str, bins: &[String], (before, now): (&[u64], &[u64])) {
    let shares = |counts: &[u64]| {
        let rows = counts.iter().sum::<u64>().max(1) as f64;
        counts.iter().map(|count| *count as f64 / rows).collect::<Vec<f64>>()
    };
    let (share_before, share_now) = (shares(before), shares(now));
    let shown: Vec<usize> = (0..bins.len()).filter(|bin| before[*bin] + now[*bin] > 0).collect();
    let largest = share_before.iter().chain(&share_now).copied().fold(f64::MIN_POSITIVE, f64::max);
    let (width, height) = (LABEL + BARS + SHARES, BIN * shown.len() as f64);
    push(html, format_args!("<figure>\n<h3>{}</h3>\n<figcaption class=\"faint\">{}</figcaption>\n", escaped(title), escaped(caption)));
    push(
        html,
        format_args!(
            "<svg role=\"img\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\"><title>{}</title>\n",
            escaped(&format!("{title}: {caption}"))
        ),
    );
    for (row, bin) in shown.into_iter().enumerate() {
        let y = row as f64 * BIN;
        let (b, n) = (share_before[bin], share_now[bin]);
        push(html, format_args!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", LABEL - 6.0, y + 12.0, escaped(&bins[bin])));
        push(
            html,
            format_args!("<rect class=\"before\" x=\"{LABEL}\" y=\"{}\" width=\"{:.1}\" height=\"7\"/>", y + 1.0, b / largest * BARS),
        );
        push(html, format_args!("<rect class=\"now\" x=\"{LABEL}\" y=\"{}\" width=\"{:.1}\" height=\"7\"/>", y + 9.0, n / largest * BARS));
        let x = LABEL + BARS + 6.0;
        push(html, format_args!("<text class=\"share\" x=\"{x}\" y=\"{}\">{:.1} % → {:.1} %</text>\n", y + 12.0, b * 100.0, n * 100.0));
    }
    html.push_str("</svg>\n</figure>\n");
}

/// Returns p in words, from its logarithm: it may be far below what a float holds.
fn probability(log_p: f64) -> String {
    let tens = log_p / std::f64::consts::LN_10;
    if tens > -4.0 { format!("{:.4}", libm::exp(log_p)) } else { format!("10^{tens:.0}") }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(character),
        }
    }
    safe
}

fn push(html: &mut String, text: std::fmt::Arguments) {
    html.write_fmt(text).expect("writing to a string does not fail");
}
