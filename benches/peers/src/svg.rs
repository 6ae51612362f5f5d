//! Bar charts as SVG, with their own background: they are readable on light and dark pages.

use std::fmt::Write;

pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) panels: Vec<Panel>,
}

/// Bars that share one scale.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    pub(crate) bars: Vec<Bar>,
}

pub(crate) struct Bar {
    pub(crate) label: &'static str,
    pub(crate) value: f64,
    /// The value as it is shown.
    pub(crate) text: String,
    pub(crate) role: Role,
}

#[derive(Clone, Copy)]
pub(crate) enum Role {
    Store,
    Baseline,
    Peer,
}

const WIDTH: f64 = 760.0;
const MARGIN: f64 = 24.0;
const LABEL_WIDTH: f64 = 108.0;
/// To the right of the longest bar, for its value.
const TEXT_WIDTH: f64 = 90.0;
const BAR_MAX: f64 = WIDTH - 2.0 * MARGIN - LABEL_WIDTH - TEXT_WIDTH;
const ROW_HEIGHT: f64 = 24.0;
const BAR_HEIGHT: f64 = 16.0;
const PANEL_HEAD: f64 = 34.0;
const HEAD: f64 = 52.0;

impl Chart {
    pub(crate) fn draw(&self) -> String {
        let panels: Vec<&Panel> = self.panels.iter().filter(|panel| !panel.bars.is_empty()).collect();
        let height = HEAD + panels.iter().map(|panel| panel.height()).sum::<f64>() + MARGIN;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" \
             fill=\"#1f2933\" role=\"img\">\n\
             <title>{title}</title>\n\
             <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"#fbfbf8\" stroke=\"#cbd2d9\"/>\n\
             <text x=\"{MARGIN}\" y=\"34\" font-size=\"16\" font-weight=\"600\">{title}</text>\n",
            WIDTH - 1.0,
            height - 1.0,
            title = escaped(self.title),
        );
        let mut top = HEAD;
        for panel in panels {
            panel.draw(top, &mut svg);
            top += panel.height();
        }
        svg + "</svg>\n"
    }
}

impl Panel {
    fn height(&self) -> f64 {
        self.head() + self.bars.len() as f64 * ROW_HEIGHT
    }

    fn head(&self) -> f64 {
        if self.title.is_empty() { 0.0 } else { PANEL_HEAD }
    }

    fn draw(&self, top: f64, svg: &mut String) {
        if !self.title.is_empty() {
            let y = top + PANEL_HEAD - 12.0;
            writeln!(svg, "<text x=\"{MARGIN}\" y=\"{y}\" font-weight=\"600\">{}</text>", escaped(self.title))
                .unwrap();
        }
        let most = self.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
        for (bar, row) in self.bars.iter().zip(0_u16..) {
            let y = top + self.head() + f64::from(row) * ROW_HEIGHT;
            // Never too short to be seen.
            let width = (bar.value / most * BAR_MAX).max(1.0);
            let left = MARGIN + LABEL_WIDTH;
            let weight = if matches!(bar.role, Role::Store) { 600 } else { 400 };
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-weight=\"{weight}\">{}</text>\
                 <rect x=\"{left}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" font-weight=\"{weight}\">{}</text>",
                left - 10.0,
                y + BAR_HEIGHT - 3.5,
                escaped(bar.label),
                bar.role.colour(),
                left + width + 8.0,
                y + BAR_HEIGHT - 3.5,
                escaped(&bar.text),
            )
            .unwrap();
        }
    }
}

impl Role {
    fn colour(self) -> &'static str {
        match self {
            Role::Store => "#1d6fd8",
            Role::Baseline => "#8a96a3",
            Role::Peer => "#d9a441",
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
