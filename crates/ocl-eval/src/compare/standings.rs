//! What a comparison has found: means and spreads, as JSON, CSV, text and pictures.

use std::fmt::Write;

use serde_json::json;

use super::config::{Budget, CompareConfig};
use super::mark::{Mark, RAW_PIXELS};
use super::picture;
use crate::error::EvalError;
use crate::text::{percent, wrap};

/// Marks of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Standings {
    /// What was asked.
    pub config: CompareConfig,
    /// The data set.
    pub data: String,
    /// What was found, in the order of its finding.
    pub marks: Vec<Mark>,
}

/// Mean and standard deviation over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

/// A method at a mark, over those seeds that have come there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) seeds: usize,
    pub(super) epochs: f64,
    pub(super) minutes: f64,
    pub(super) knn: Spread,
    pub(super) linear: Spread,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { mean, deviation: if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 } }
    }

    fn text(self, seeds: usize) -> String {
        match seeds {
            0 | 1 => percent(self.mean),
            _ => format!("{:.1} ± {:.1} %", self.mean * 100.0, self.deviation * 100.0),
        }
    }
}

impl Standings {
    pub(super) fn at(&self, method: &str, seed: u64, mark: u64) -> Option<&Mark> {
        let is = |m: &&Mark| m.method == method && (m.seed, m.mark) == (seed, mark);
        self.marks.iter().find(is)
    }

    /// Raw pixels, once they are measured.
    pub(super) fn pixels(&self) -> Option<&Mark> {
        self.marks.iter().find(|mark| mark.method == RAW_PIXELS)
    }

    /// A method at a mark, if a seed has come there.
    pub(super) fn point(&self, method: &str, mark: u64) -> Option<Point> {
        let seeds = self.config.seeds.iter();
        let marks: Vec<&Mark> = seeds.filter_map(|&seed| self.at(method, seed, mark)).collect();
        let spread = |of: fn(&Mark) -> f64| {
            Spread::of(&marks.iter().map(|mark| of(mark)).collect::<Vec<_>>())
        };
        (!marks.is_empty()).then(|| Point {
            seeds: marks.len(),
            epochs: spread(|mark| mark.epochs).mean,
            minutes: spread(|mark| mark.minutes).mean,
            knn: spread(|mark| mark.knn),
            linear: spread(|mark| mark.linear),
        })
    }

    /// A method at all its marks, the untrained encoder first.
    pub(super) fn line(&self, method: &str) -> Vec<Point> {
        (0..=self.config.marks).filter_map(|mark| self.point(method, mark)).collect()
    }

    /// What the minutes are minutes of.
    pub(super) fn minutes(&self) -> &'static str {
        let backend = self.config.backend.parse::<ocl_train::Backend>();
        backend.map_or("minutes", ocl_train::Backend::minutes)
    }

    /// The files that tell what is known by now, by name.
    pub(super) fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, EvalError> {
        let svg = picture::svg(self)?;
        let png = picture::png(self)?;
        Ok(vec![
            ("comparison.json", (self.json().to_string() + "\n").into_bytes()),
            ("comparison.csv", self.csv().into_bytes()),
            ("comparison.svg", svg.into_bytes()),
            ("comparison.png", png),
        ])
    }

    /// Everything, with a summary for each method at each mark.
    pub fn json(&self) -> serde_json::Value {
        let spread = |s: Spread| json!({ "mean": s.mean, "deviation": s.deviation });
        let point = |p: &Point| {
            json!({
                "seeds": p.seeds, "epochs": p.epochs, "minutes": p.minutes,
                "knn": spread(p.knn), "linear": spread(p.linear),
            })
        };
        let methods: serde_json::Map<String, serde_json::Value> = self
            .config
            .entrants
            .iter()
            .map(|entrant| {
                let line: Vec<_> = self.line(&entrant.method).iter().map(point).collect();
                (entrant.method.clone(), line.into())
            })
            .collect();
        json!({
            "asked": self.config, "data": self.data, "minutes_are": self.minutes(),
            "methods": methods, "marks": self.marks,
        })
    }

    /// A row for each mark.
    pub fn csv(&self) -> String {
        let mut text = String::from("method,seed,mark,step,epochs,minutes,knn,linear,loss\n");
        for mark in &self.marks {
            let Mark { method, seed, mark: number, step, epochs, minutes, knn, linear, loss } =
                mark;
            let loss = loss.map_or_else(String::new, |loss| loss.to_string());
            let _ = writeln!(
                text,
                "{method},{seed},{number},{step},{epochs:.4},{minutes:.4},{knn:.6},{linear:.6},{loss}"
            );
        }
        text
    }

    /// A table for an 80-column terminal: every method where all its seeds have come.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let budget = match self.config.budget {
            Budget::Minutes(minutes) => format!("{minutes} {}", self.minutes()),
            Budget::Epochs(epochs) => format!("{epochs} epochs"),
        };
        let seeds = self.config.seeds.len();
        let spread =
            if seeds > 1 { format!(", mean ± deviation of {seeds} seeds") } else { String::new() };
        let _ =
            writeln!(text, "{}\n", wrap(&format!("Top-1 after {budget} of each method{spread}")));
        let _ = writeln!(
            text,
            "{:<22}{:>9}{:>10}{:>18}{:>18}",
            "", "epochs", "minutes", "k-NN", "linear probe"
        );
        let mut row = |name: &str, point: Point, trained: bool| {
            let Point { seeds, epochs, minutes, knn, linear } = point;
            let cost = match trained {
                true => format!("{epochs:>9.1}{minutes:>10.1}"),
                false => format!("{:>19}", ""),
            };
            let (knn, linear) = (knn.text(seeds), linear.text(seeds));
            let _ = writeln!(text, "{name:<22}{cost}{knn:>18}{linear:>18}");
        };
        let methods = || self.config.entrants.iter().map(|entrant| entrant.method.as_str());
        for method in methods() {
            if let Some(point) = self.point(method, self.config.marks) {
                row(method, point, true);
            }
        }
        for method in methods() {
            if let Some(point) = self.point(method, 0) {
                row(&format!("  {method}, untrained"), point, false);
            }
        }
        if let Some(pixels) = self.pixels() {
            let [knn, linear] = [pixels.knn, pixels.linear].map(|value| Spread::of(&[value]));
            row("  raw pixels", Point { seeds: 1, epochs: 0.0, minutes: 0.0, knn, linear }, false);
        }
        text
    }
}

impl Mark {
    /// A line for who watches.
    pub(super) fn line(&self, marks: u64) -> String {
        let (knn, linear) = (percent(self.knn), percent(self.linear));
        let found = format!("k-NN {knn:>6}   linear probe {linear:>6}");
        let Self { method, seed, mark, minutes, epochs, .. } = self;
        match (method.as_str(), mark) {
            (RAW_PIXELS, _) => format!("{RAW_PIXELS:<38}{found}"),
            (_, 0) => format!("{method:<8} seed {seed}   untrained{:13}{found}", ""),
            _ => format!(
                "{method:<8} seed {seed}   mark {mark}/{marks} {minutes:>6.2} min {epochs:>6.1} ep.   {found}"
            ),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::config::Entrant;
    use super::super::mark::example;
    use super::*;

    pub(in crate::compare) fn standings(marks: Vec<Mark>) -> Standings {
        let entrant = |method: &str| Entrant {
            method: method.to_owned(),
            overrides: vec![],
            step_secs: 0.5,
            steps: 20,
        };
        let config = CompareConfig {
            version: "0".to_owned(),
            recipe: "embedded".to_owned(),
            overrides: vec![],
            backend: "flex".to_owned(),
            budget: Budget::Minutes(3.0),
            seeds: vec![0, 1],
            marks: 2,
            limits: [100, 100],
            entrants: vec![entrant("ocl"), entrant("mae")],
        };
        Standings { config, data: "some data".to_owned(), marks }
    }

    #[test]
    fn seeds_are_put_together_and_what_is_missing_is_left_out() {
        let found = standings(vec![
            example("ocl", 0, 0, 0.5),
            example("mae", 0, 0, 0.4),
            example("ocl", 0, 2, 0.7),
            example("ocl", 1, 2, 0.8),
            example(RAW_PIXELS, 0, 0, 0.6),
        ]);
        let point = found.point("ocl", 2).unwrap();
        assert_eq!((point.seeds, point.minutes, point.epochs), (2, 3.0, 1.0));
        assert!((point.knn.mean - 0.75).abs() < 1e-12);
        assert!((point.knn.deviation - 0.005f64.sqrt()).abs() < 1e-12);
        assert!(found.point("mae", 2).is_none() && found.point("ocl", 1).is_none());
        assert_eq!(found.line("ocl").len(), 2);
        let text = found.text();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("75.0 ± 7.1 %") && text.contains("raw pixels"), "{text}");
        assert!(text.starts_with("Top-1 after 3 minutes of one core of each method"), "{text}");
        assert_eq!(found.csv().lines().count(), 6);
        assert_eq!(
            found.csv().lines().nth(3).unwrap(),
            "ocl,0,2,20,1.0000,3.0000,0.700000,0.720000,1"
        );
        let json = found.json();
        assert_eq!(json["methods"]["ocl"][1]["seeds"], 2);
        assert_eq!(json["asked"]["budget"]["minutes"], 3.0);
    }
}
