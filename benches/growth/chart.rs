//! Line charts as SVG with two logarithmic axes. Each line is labelled at its right end.

use std::fmt::Write;

pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) x_title: &'static str,
    pub(crate) y_title: &'static str,
    /// The values and labels of the marks on the x axis.
    pub(crate) x_marks: Vec<(f64, String)>,
    /// The label of a power of ten on the y axis.
    pub(crate) y_mark: fn(f64) -> String,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 55.0;
/// The least distance between two names.
const NAME_HEIGHT: f64 = 16.0;
/// The palette of Okabe and Ito, distinguishable with colour blindness.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#444444"];
/// So that lines are distinguishable without colours.
const DASHES: [&str; 7] = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2"];

impl Chart {
    pub(crate) fn svg(&self) -> String {
        let mut svg = String::new();
        let out = &mut svg;
        // The chart has its own background: it is readable on light and dark pages.
        write!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<title>{}</title>\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\" fill=\"#fff\"/>\n",
            self.title
        )
        .unwrap();
        text(out, LEFT, 24.0, "start", "font-size=\"15\" font-weight=\"bold\"", self.title);
        text(out, LEFT - 60.0, TOP - 10.0, "start", "fill=\"#555\"", self.y_title);
        text(out, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14.0, "middle", "fill=\"#555\"", self.x_title);
        let scale = Scale::of(self);
        for power in scale.y_powers() {
            let y = scale.y(10_f64.powi(power));
            rule(out, (LEFT, y), (WIDTH - RIGHT, y));
            text(out, LEFT - 8.0, y + 4.0, "end", "", &(self.y_mark)(10_f64.powi(power)));
        }
        for (value, mark) in &self.x_marks {
            let x = scale.x(*value);
            rule(out, (x, TOP), (x, HEIGHT - BOTTOM));
            text(out, x, HEIGHT - BOTTOM + 18.0, "middle", "", mark);
        }
        for (i, line) in self.lines.iter().enumerate() {
            draw(out, &scale, line, i);
        }
        self.name_lines(out, &scale);
        out.push_str("</svg>\n");
        svg
    }

    fn name_lines(&self, out: &mut String, scale: &Scale) {
        let end = |line: &Line| scale.y(line.points.last().unwrap().1);
        let mut names: Vec<_> = self.lines.iter().enumerate().map(|(i, line)| (end(line), i)).collect();
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        for i in 1..names.len() {
            names[i].0 = names[i].0.max(names[i - 1].0 + NAME_HEIGHT);
        }
        // Names that were pushed below the axis move back up and push those above them.
        let mut lowest = HEIGHT - BOTTOM;
        for (y, i) in names.iter_mut().rev() {
            *y = y.min(lowest);
            lowest = *y - NAME_HEIGHT;
            let style = format!("fill=\"{}\"", COLOURS[*i % COLOURS.len()]);
            text(out, WIDTH - RIGHT + 10.0, *y + 4.0, "start", &style, &self.lines[*i].name);
        }
    }
}

fn draw(out: &mut String, scale: &Scale, line: &Line, i: usize) {
    let (colour, dashes) = (COLOURS[i % COLOURS.len()], DASHES[i % DASHES.len()]);
    let at: Vec<_> = line.points.iter().map(|&(x, y)| (scale.x(x), scale.y(y))).collect();
    let path: Vec<_> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let path = path.join(" ");
    writeln!(
        out,
        "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
         stroke-dasharray=\"{dashes}\"/>"
    )
    .unwrap();
    for (x, y) in at {
        writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>").unwrap();
    }
}

fn rule(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    writeln!(out, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>").unwrap();
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, style: &str, text: &str) {
    writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{text}</text>").unwrap();
}

/// Maps values to coordinates.
struct Scale {
    x: (f64, f64),
    y: (i32, i32),
}

impl Scale {
    fn of(chart: &Chart) -> Self {
        let all = || chart.lines.iter().flat_map(|line| &line.points);
        let (low, high) = all().fold((f64::MAX, f64::MIN), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
        let xs = || chart.x_marks.iter().map(|mark| mark.0.log10());
        #[allow(clippy::cast_possible_truncation, reason = "powers of ten of measured values")]
        let y = (low.log10().floor() as i32, high.log10().ceil() as i32);
        Scale { x: (xs().fold(f64::MAX, f64::min), xs().fold(f64::MIN, f64::max)), y }
    }

    fn y_powers(&self) -> impl Iterator<Item = i32> + use<> {
        self.y.0..=self.y.1
    }

    fn x(&self, value: f64) -> f64 {
        let part = (value.log10() - self.x.0) / (self.x.1 - self.x.0);
        LEFT + 10.0 + part * (WIDTH - LEFT - RIGHT - 20.0)
    }

    fn y(&self, value: f64) -> f64 {
        let (low, high) = (f64::from(self.y.0), f64::from(self.y.1));
        let part = (value.log10() - low) / (high - low);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }
}
