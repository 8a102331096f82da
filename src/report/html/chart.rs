//! Axes of charts in SVG, which scales with the page. Units are those of the view box.

use std::fmt::Write;

/// The view box.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
/// The plot within it.
pub const LEFT: f64 = 50.0;
pub const RIGHT: f64 = WIDTH - 12.0;
pub const TOP: f64 = 26.0;
pub const BOTTOM: f64 = HEIGHT - 46.0;

/// From numbers to places in the plot.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// The numbers at the left and the right.
    pub x: (f64, f64),
    /// The numbers at the bottom and the top.
    pub y: (f64, f64),
}

impl Scale {
    pub fn x(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (RIGHT - LEFT)
    }

    pub fn y(&self, y: f64) -> f64 {
        BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (BOTTOM - TOP)
    }
}

/// A mark on an axis: where, and what is written there.
pub type Tick = (f64, String);

/// Whole numbers from `from` to `to`, so many at most (or a few more), at multiples of 1, 2 or 5 times a power of ten.
pub fn whole_ticks(from: usize, to: usize, at_most: usize) -> impl Iterator<Item = usize> {
    let least = (to - from).div_ceil(at_most).max(1);
    let power = 10_usize.pow(least.ilog10());
    let step = [1, 2, 5, 10].into_iter().map(|m| m * power).find(|step| *step >= least).unwrap_or(least);
    (from.next_multiple_of(step)..=to).step_by(step)
}

/// As [`whole_ticks`], not of whole numbers alone; about so many.
pub fn ticks(from: f64, to: f64, about: f64) -> impl Iterator<Item = f64> {
    let least = (to - from) / about;
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= least).unwrap_or(least);
    let first = (from / step).ceil() as i64;
    (first..).map(move |at| at as f64 * step).take_while(move |at| *at <= to + step * 1e-9)
}

/// Both axes with their ticks and names.
pub fn axes(scale: &Scale, x: (&str, &[Tick]), y: (&str, &[Tick])) -> String {
    let mut out = String::new();
    for (at, label) in y.1 {
        let at = scale.y(*at);
        let _ = writeln!(out, r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1}" y2="{at:.1}"/>"#);
        let _ = writeln!(out, r#"<text class="end" x="{}" y="{:.1}">{label}</text>"#, LEFT - 6.0, at + 4.0);
    }
    for (at, label) in x.1 {
        let at = scale.x(*at);
        let _ = writeln!(
            out,
            r#"<line class="axis" x1="{at:.1}" x2="{at:.1}" y1="{BOTTOM}" y2="{}"/>
<text class="middle" x="{at:.1}" y="{}">{label}</text>"#,
            BOTTOM + 4.0,
            BOTTOM + 18.0
        );
    }
    let _ = writeln!(out, r#"<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>"#);
    let _ = writeln!(out, r#"<text class="middle" x="{}" y="{}">{}</text>"#, (LEFT + RIGHT) / 2.0, HEIGHT - 8.0, x.0);
    out + &format!("<text x=\"4\" y=\"14\">{}</text>\n", y.0)
}

/// What stands below the plot: the names of series, markup, beside their colours.
#[derive(Debug, Default)]
pub struct Legend(Vec<(usize, String)>);

impl Legend {
    /// Of names with the numbers of their colours.
    pub fn of(names: Vec<(usize, String)>) -> Legend {
        Legend(names)
    }

    fn height(&self) -> f64 {
        HEIGHT + LINE * self.0.len() as f64
    }

    fn markup(&self) -> String {
        let mut out = String::new();
        for (at, (colour, name)) in self.0.iter().enumerate() {
            let y = HEIGHT + LINE * (at as f64 + 0.6);
            let (x, top) = (LEFT + 16.0, y - 9.0);
            let _ = writeln!(
                out,
                r#"<rect class="kind{colour}" x="{LEFT}" y="{top:.1}" width="10" height="10"/><text x="{x}" y="{y:.1}">{name}</text>"#
            );
        }
        out
    }
}

/// The height of a line of a legend.
const LINE: f64 = 17.0;

/// A figure with its caption; the title and the description are for those who do not see it. All texts are markup.
pub fn figure(id: &str, (title, description): (&str, &str), inside: &str, legend: &Legend, caption: &str) -> String {
    let (height, legend) = (legend.height(), legend.markup());
    format!(
        "<figure>\n<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"{id}-title {id}-desc\">\n\
         <title id=\"{id}-title\">{title}</title>\n<desc id=\"{id}-desc\">{description}</desc>\n{inside}{legend}</svg>\n\
         <figcaption>{caption}</figcaption>\n</figure>\n"
    )
}

/// A file of its own; title and description are markup.
pub fn file((title, description): (&str, &str), style: &str, inside: &str, legend: &Legend) -> String {
    let (height, legend) = (legend.height(), legend.markup());
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-labelledby=\"title desc\">\n<title id=\"title\">{title}</title>\n<desc id=\"desc\">{description}</desc>\n\
         <style>\n{style}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n{inside}{legend}</svg>\n"
    )
}

/// 10ⁿ.
pub fn power_of_ten(exponent: i64) -> String {
    let superscript = |digit: char| match digit {
        '-' => Some('⁻'),
        digit => "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(digit.to_digit(10)? as usize),
    };
    format!("10{}", exponent.to_string().chars().filter_map(superscript).collect::<String>())
}
