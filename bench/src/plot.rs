//! Bars for people: one plot for each workload, a group of bars for each engine.

use std::fmt::Write;

use serde_json::Value;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 210.0;
const BAR: f64 = 18.0;
const GAP: f64 = 6.0;

/// One bar.
pub(crate) struct Bar {
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) label: String,
}

/// The bars of the reports of one workload: a figure of each row, as far as it has one.
pub(crate) fn bars(reports: &[&Value], figure: &str) -> Vec<Bar> {
    let mut bars = Vec::new();
    for report in reports {
        for row in report["rows"].as_array().into_iter().flatten() {
            let Some(value) = row["figures"][figure].as_f64().filter(|value| *value > 0.0) else { continue };
            bars.push(Bar {
                group: text(&report["engine"]),
                name: text(&row["name"]),
                value,
                label: crate::report::short(value),
            });
        }
    }
    bars
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A plot of bars on a logarithmic scale: what is compared here differs by factors, not by shares.
pub(crate) fn plot(title: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(1e-9, f64::max);
    let least = bars.iter().map(|bar| bar.value).fold(most, f64::min);
    let floor = 10_f64.powf(least.log10().floor());
    let decades = (most / floor).log10().max(0.1);
    let mut groups: Vec<&str> = Vec::new();
    for bar in bars {
        if groups.last() != Some(&bar.group.as_str()) {
            groups.push(&bar.group);
        }
    }
    let height = 54.0 + bars.len() as f64 * (BAR + GAP) + groups.len() as f64 * 26.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\" font-weight=\"bold\" fill=\"#222\">{}</text>\n",
        escaped(title)
    );
    let (mut y, mut group) = (40.0, "");
    for bar in bars {
        if bar.group != group {
            group = &bar.group;
            // Writing to a string cannot fail.
            let _ =
                writeln!(svg, "<text x=\"12\" y=\"{}\" fill=\"#555\">{}</text>", y + 18.0, escaped(group));
            y += 26.0;
        }
        let length = (WIDTH - LEFT - 90.0) * ((bar.value / floor).log10() / decades).clamp(0.01, 1.0);
        let colour = if bar.name.starts_with(crate::engines::TENURE) { "#1f6f8b" } else { "#b8c4c9" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#222\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\" fill=\"#222\">{}</text>",
            LEFT - 8.0,
            y + 14.0,
            escaped(&bar.name),
            LEFT + length + 6.0,
            y + 14.0,
            escaped(&bar.label)
        );
        y += BAR + GAP;
    }
    svg + "</svg>\n"
}

/// One line of a plot.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

const TOP: f64 = 48.0;
const HEIGHT: f64 = 360.0;
const AXIS: f64 = 70.0;
/// For the names, to the right of the lines.
const NAMES: f64 = 200.0;

/// Lines over a number of workers, both on logarithmic scales.
pub(crate) fn lines(title: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let decades = |value: fn(&(f64, f64)) -> f64| {
        let logs = || points().map(|point| value(point).log10());
        let (low, high) = (logs().fold(f64::MAX, f64::min).floor(), logs().fold(f64::MIN, f64::max).ceil());
        if low < high { (low, high) } else { (low, low + 1.0) }
    };
    let ((left, right), (low, high)) = (decades(|point| point.0), decades(|point| point.1));
    let across = |x: f64| AXIS + (WIDTH - AXIS - NAMES) * (x.log10() - left) / (right - left);
    let down = |y: f64| TOP + HEIGHT * (high - y.log10()) / (high - low);
    let (bottom, end) = (TOP + HEIGHT, WIDTH - NAMES);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\" font-weight=\"bold\" fill=\"#222\">{}</text>\n",
        bottom + 34.0,
        escaped(title)
    );
    // Powers of ten, of which there are few. Writing to a string cannot fail.
    for power in left as i32..=right as i32 {
        let (value, x) = (10_f64.powi(power), across(10_f64.powi(power)));
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#e4e9eb\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{value}</text>",
            bottom + 20.0
        );
    }
    for power in low as i32..=high as i32 {
        let (value, y) = (10_f64.powi(power), down(10_f64.powi(power)));
        let _ = writeln!(
            svg,
            "<path d=\"M{AXIS} {y:.1}H{end}\" stroke=\"#e4e9eb\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{value}</text>",
            AXIS - 8.0,
            y + 4.0
        );
    }
    // The names stand where the lines end, or below each other where these are close.
    let mut last: Vec<(&Line, f64)> =
        lines.iter().filter_map(|line| Some((line, down(line.points.last()?.1)))).collect();
    last.sort_by(|one, other| one.1.total_cmp(&other.1));
    let mut free = TOP;
    for (line, y) in last {
        let ours = line.name.contains(crate::engines::TENURE);
        let colour = if ours { "#1f6f8b" } else { "#8d9ca3" };
        let path: Vec<_> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), down(*y))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for point in &path {
            let (x, y) = point.split_once(',').unwrap_or_default();
            let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
        free = y.max(free);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            end + 10.0,
            free + 4.0,
            escaped(&line.name)
        );
        free += 17.0;
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_a_bar_for_each_figure() {
        let report = serde_json::json!({
            "engine": "redis",
            "rows": [{ "name": "tenure", "figures": { "x": 5.0 } }, { "name": "a<b", "figures": { "y": 1.0 } }],
        });
        let bars = bars(&[&report], "x");
        assert_eq!(bars.len(), 1);
        let svg = plot("x & y", &bars);
        assert!(svg.contains("x &amp; y") && svg.contains(">tenure<") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
