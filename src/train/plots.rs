//! Pictures of a candidate: self-contained SVG, a function of what they show.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::trial::Tried;
use crate::baseline::quantile::quantile;

/// Points of a scatter, at most: more hide each other, and make a file of megabytes.
const POINTS: usize = 2_000;
/// A picture, in pixels, and the margin around what it shows.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 480.0;
const MARGIN: f64 = 60.0;
/// Quantiles of the error that are shown, %.
const QUANTILES: [u32; 9] = [5, 10, 25, 50, 75, 90, 95, 99, 100];

/// Returns the pictures of a candidate by path: predicted against actual and quantiles of the error on the hold-out, importances.
///
/// - Shapes: `actual` is `[rows]` of the hold-out, in the order of the candidate's predictions; `target` names its unit.
#[must_use]
pub fn plots(tried: &Tried, actual: &[f64], target: &str) -> BTreeMap<String, Vec<u8>> {
    let candidate = &tried.candidate;
    let mut plots = BTreeMap::new();
    let mut add = |name: &str, svg: String| drop(plots.insert(format!("plots/{name}.svg"), svg.into_bytes()));
    add("predicted_vs_actual", scatter(&candidate.predictions, actual, target));
    let mut errors: Vec<f64> = candidate.predictions.iter().zip(actual).map(|(p, a)| (p - a).abs()).collect();
    errors.sort_unstable_by(f64::total_cmp);
    let bars: Vec<(String, f64)> = QUANTILES.iter().map(|q| (format!("{q} %"), quantile(&errors, f64::from(*q) / 100.0))).collect();
    add("error_quantiles", bar_chart(&format!("Share of the hold-out with an error of at most, {target}"), &bars));
    if !candidate.importances.is_empty() {
        let names = candidate.model.card().features.iter().cloned();
        let mut bars: Vec<(String, f64)> = names.zip(candidate.importances.iter().copied()).collect();
        bars.sort_by(|a, b| b.1.total_cmp(&a.1));
        add("importances", bar_chart("Share of the explained variance, by feature", &bars));
    }
    plots
}

fn frame(title: &str, inside: &str) -> String {
    let title = escaped(title);
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" role="img" aria-label="{title}"><rect width="100%" height="100%" fill="#fff"/><text x="{MARGIN}" y="24" font-size="14">{title}</text>{inside}</svg>
"##
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn scatter(predicted: &[f64], actual: &[f64], target: &str) -> String {
    let largest = predicted.iter().chain(actual).copied().filter(|value| value.is_finite()).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let x = |value: f64| MARGIN + (WIDTH - 2.0 * MARGIN) * (value / largest).clamp(0.0, 1.0);
    let y = |value: f64| HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * (value / largest).clamp(0.0, 1.0);
    let (left, right, low, high) = (x(0.0), x(largest), y(0.0), y(largest));
    let mut inside = format!(
        r##"<path d="M{left} {high}V{low}H{right}" fill="none" stroke="#333"/><path d="M{left} {low}L{right} {high}" stroke="#999" stroke-dasharray="4"/>"##
    );
    write!(
        inside,
        r#"<text x="{left}" y="{}">0</text><text x="{right}" y="{}" text-anchor="end">{largest:.0}</text>"#,
        low + 16.0,
        low + 16.0
    )
    .expect("a text takes all");
    write!(
        inside,
        r#"<text x="{}" y="{}" text-anchor="middle">actual, {}</text>"#,
        f64::midpoint(left, right),
        low + 36.0,
        escaped(target)
    )
    .expect("a text takes all");
    inside.push_str(r##"<g fill="#06c" fill-opacity="0.35">"##);
    let step = predicted.len().div_ceil(POINTS).max(1);
    for (predicted, actual) in predicted.iter().zip(actual).step_by(step) {
        write!(inside, r#"<circle cx="{:.1}" cy="{:.1}" r="2"/>"#, x(*actual), y(*predicted)).expect("a text takes all");
    }
    inside.push_str("</g>");
    frame(&format!("Predicted against actual on the hold-out, {target}"), &inside)
}

fn bar_chart(title: &str, bars: &[(String, f64)]) -> String {
    const NAMES: f64 = 200.0;
    let largest = bars.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let step = (HEIGHT - 2.0 * MARGIN) / bars.len().max(1) as f64;
    let mut inside = String::new();
    for (at, (name, value)) in bars.iter().enumerate() {
        let (top, length) = (MARGIN + at as f64 * step, (WIDTH - NAMES - 2.0 * MARGIN) * (value / largest).clamp(0.0, 1.0));
        let (middle, digits) = (top + step / 2.0, if largest < 10.0 { 3 } else { 0 });
        write!(inside, r##"<rect x="{NAMES}" y="{:.1}" width="{length:.1}" height="{:.1}" fill="#06c"/>"##, top + step * 0.15, step * 0.7)
            .expect("a text takes all");
        write!(
            inside,
            r#"<text x="{}" y="{middle:.1}" text-anchor="end" dominant-baseline="middle">{}</text>"#,
            NAMES - 6.0,
            escaped(name)
        )
        .expect("a text takes all");
        write!(inside, r#"<text x="{:.1}" y="{middle:.1}" dominant-baseline="middle">{value:.digits$}</text>"#, NAMES + length + 6.0)
            .expect("a text takes all");
    }
    frame(title, &inside)
}
