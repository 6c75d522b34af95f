//! Accuracy against time, a line for each method: k-NN on the left, the linear probe on the right.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::standings::{Point, Spread, Standings};
use crate::error::EvalError;
use crate::report::font;

/// Sides of the picture in pixels.
const SIZE: (u32, u32) = (1600, 680);
/// Height of words, and of the names at the ends of lines with the space between two of them.
const WORDS_PX: u32 = 19;
const NAME_PX: i32 = 22;
/// Room at the right for names, as a share of the time shown.
const NAMES_SHARE: f64 = 0.22;
const GREY: RGBColor = RGBColor(120, 120, 120);

/// Colours that people with the common colour blindnesses tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

/// The picture as SVG.
///
/// # Errors
/// [`EvalError::Picture`].
pub(super) fn svg(standings: &Standings) -> Result<String, EvalError> {
    let mut text = String::new();
    draw(standings, SVGBackend::with_string(&mut text, SIZE).into_drawing_area())?;
    Ok(text)
}

/// The picture as PNG.
///
/// # Errors
/// [`EvalError::Picture`].
pub(super) fn png(standings: &Standings) -> Result<Vec<u8>, EvalError> {
    let (width, height) = SIZE;
    let mut pixels = vec![0; width as usize * height as usize * 3];
    draw(standings, BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area())?;
    let mut bytes = std::io::Cursor::new(vec![]);
    let format = image::ImageFormat::Png;
    image::write_buffer_with_format(
        &mut bytes,
        &pixels,
        width,
        height,
        image::ColorType::Rgb8,
        format,
    )
    .map_err(|error| EvalError::Picture(error.to_string()))?;
    Ok(bytes.into_inner())
}

type Area<B> = DrawingArea<B, Shift>;

fn draw<B: DrawingBackend>(standings: &Standings, area: Area<B>) -> Result<(), EvalError> {
    let failed = |error: DrawingAreaErrorKind<B::ErrorType>| EvalError::Picture(error.to_string());
    area.fill(&WHITE).map_err(failed)?;
    let title = format!("{}: top-1 against {}", standings.data, standings.minutes());
    let area = area.margin(14, 0, 0, 0).titled(&title, (font(), 26)).map_err(failed)?;
    let (left, right) = area.split_horizontally(SIZE.0 / 2);
    panel(standings, &left, "k-NN", |point| point.knn).map_err(failed)?;
    panel(standings, &right, "linear probe", |point| point.linear).map_err(failed)?;
    area.present().map_err(failed)
}

/// One measure of all methods.
fn panel<B: DrawingBackend>(
    standings: &Standings,
    area: &Area<B>,
    name: &str,
    of: fn(&Point) -> Spread,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let lines: Vec<(&str, Vec<Point>)> = standings
        .config
        .entrants
        .iter()
        .map(|entrant| (entrant.method.as_str(), standings.line(&entrant.method)))
        .collect();
    let pixels = standings.pixels().map(|mark| if name == "k-NN" { mark.knn } else { mark.linear });
    let (minutes, accuracy) = ranges(&lines, pixels, of);
    let mut chart = ChartBuilder::on(area)
        .caption(name, (font(), 23))
        .margin(14)
        .x_label_area_size(52)
        .y_label_area_size(64)
        .build_cartesian_2d(minutes.clone(), accuracy)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .axis_style(BLACK.mix(0.5))
        .label_style((font(), WORDS_PX))
        .x_desc(standings.minutes())
        .y_label_formatter(&|value| format!("{value:.0} %"))
        .x_label_formatter(&|value| short(*value))
        .draw()?;
    let mut names = vec![];
    if let Some(share) = pixels {
        let ends = [(minutes.start, share * 100.0), (minutes.end, share * 100.0)];
        chart.draw_series(DashedLineSeries::new(ends, 6, 4, GREY.stroke_width(2)))?;
        let end = minutes.end / (1.0 + NAMES_SHARE);
        let (x, y) = chart.backend_coord(&(end, share * 100.0));
        // Above its line, which goes on to the right; the others' end where their names begin.
        names.push(("raw pixels", (x, y - NAME_PX * 2 / 3), GREY));
    }
    for ((method, line), colour) in lines.iter().zip(COLOURS.into_iter().cycle()) {
        let at = |sign: f64| {
            move |point: &Point| {
                let Spread { mean, deviation } = of(point);
                (point.minutes, (mean + sign * deviation) * 100.0)
            }
        };
        let band = line.iter().map(at(-1.0)).chain(line.iter().rev().map(at(1.0)));
        chart.draw_series([Polygon::new(band.collect::<Vec<_>>(), colour.mix(0.15))])?;
        chart.draw_series(LineSeries::new(line.iter().map(at(0.0)), colour.stroke_width(3)))?;
        chart.draw_series(
            line.iter().map(|point| Circle::new(at(0.0)(point), 4, colour.filled())),
        )?;
        if let Some(end) = line.last() {
            names.push((method, chart.backend_coord(&at(0.0)(end)), colour));
        }
    }
    apart(&mut names);
    // Pixels of the whole picture, where the area's own begin at its corner.
    let (left, top) = area.get_base_pixel();
    for (name, (x, y), colour) in names {
        let at = (x - left + 10, y - top - NAME_PX / 2);
        area.draw(&Text::new(name, at, (font(), NAME_PX).into_font().color(&colour)))?;
    }
    Ok(())
}

/// Moves names down until none stands on another.
fn apart(names: &mut [(&str, (i32, i32), RGBColor)]) {
    names.sort_by_key(|(_, (_, y), _)| *y);
    for at in 1..names.len() {
        let least = names[at - 1].1.1 + NAME_PX;
        names[at].1.1 = names[at].1.1.max(least);
    }
}

/// Minutes and percent that hold every point, with some air.
fn ranges(
    lines: &[(&str, Vec<Point>)],
    pixels: Option<f64>,
    of: fn(&Point) -> Spread,
) -> (Range<f64>, Range<f64>) {
    let points = || lines.iter().flat_map(|(_, line)| line);
    let latest = points().map(|point| point.minutes).fold(0.0, f64::max);
    let ends = points().flat_map(|point| {
        let Spread { mean, deviation } = of(point);
        [mean - deviation, mean + deviation]
    });
    let all = || ends.clone().chain(pixels).map(|share| share * 100.0);
    let (low, high) = (all().fold(100.0, f64::min), all().fold(0.0, f64::max));
    let air = (0.05 * (high - low)).max(0.5);
    (0.0..(latest * (1.0 + NAMES_SHARE)).max(0.1), (low - air).max(0.0)..(high + air).min(100.0))
}

/// A number of minutes without needless places.
fn short(minutes: f64) -> String {
    let text = format!("{minutes:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::mark::{RAW_PIXELS, example};
    use super::super::standings::tests::standings;
    use super::*;

    #[test]
    fn it_can_be_drawn_at_any_time() {
        let mut marks = vec![];
        for (method, seed, mark, top1) in [
            (RAW_PIXELS, 0, 0, 0.6),
            ("ocl", 0, 0, 0.5),
            ("mae", 0, 0, 0.4),
            ("ocl", 0, 1, 0.7),
            ("ocl", 1, 1, 0.8),
        ] {
            let found = standings(marks.clone());
            assert!(svg(&found).unwrap().starts_with("<svg"), "{} marks", marks.len());
            marks.push(example(method, seed, mark, top1));
        }
        let found = standings(marks);
        let text = svg(&found).unwrap();
        for word in ["raw pixels", "ocl", "mae", "linear probe", "minutes of one core", "70 %"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let picture = ocl_data::decode(&png(&found).unwrap()).unwrap();
        assert_eq!((picture.width_px, picture.height_px), SIZE);
        let colour = COLOURS[0];
        let drawn = picture.pixels.chunks_exact(3).filter(|p| *p == [colour.0, colour.1, colour.2]);
        assert!(drawn.count() > 50, "the first method's line");
    }

    #[test]
    fn names_do_not_stand_on_each_other() {
        let mut names = [("a", (0, 50), GREY), ("b", (0, 51), GREY), ("c", (9, 300), GREY)];
        apart(&mut names);
        assert_eq!(names.map(|(name, at, _)| (name, at.1)), [("a", 50), ("b", 72), ("c", 300)]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 2.5, 10.0].map(short), ["0", "2.5", "10"]);
    }
}
