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
