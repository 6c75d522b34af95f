//! What a person sees of a run: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Event, StepRecord};
use crate::config::Plan;

/// Seconds between plain lines.
const LINE_SECS: u64 = 10;
/// Steps over which speed and loss are smoothed, roughly.
const SMOOTHING: f64 = 20.0;

/// Shows the events of a run on stderr.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    batch: usize,
    smooth: Option<Smooth>,
    line_at: Instant,
    first: bool,
    seen: Seen,
}

/// Figures that only some steps have, as they were last.
#[derive(Default)]
struct Seen {
    rank: Option<f64>,
    knn_top1: Option<f64>,
}

struct Smooth {
    loss: f64,
    secs_per_step: f64,
    data_wait: f64,
}

impl Progress {
    /// Progress of a plan.
    pub fn new(plan: &Plan) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(
                Some(plan.steps),
                ProgressDrawTarget::stderr_with_hz(8),
            );
            let style = "{bar:24} {pos}/{len} {msg}";
            bar.set_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        Self {
            bar,
            total: plan.steps,
            batch: plan.batch,
            smooth: None,
            line_at: Instant::now(),
            first: true,
            seen: Seen::default(),
        }
    }

    /// Takes one event.
    pub fn observe(&mut self, event: Event<'_>) {
        match event {
            Event::Started { step, passed_over } => {
                for reason in passed_over {
                    self.say(&format!("a checkpoint was passed over: {reason}"));
                }
                if step > 0 {
                    self.say(&format!("resumed after step {step}"));
                }
            }
            Event::Step(record) => self.step(record),
            Event::Note(text) => self.say(text),
            Event::Saved(_) => {}
        }
    }

    /// Prints a line above the bar, or as a plain one.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| crate::say!("{line}")),
            None => crate::say!("{line}"),
        }
    }

    /// Leaves the bar as it stands: a run that was interrupted is not done.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn step(&mut self, record: &StepRecord) {
        let secs = self.batch as f64 / record.images_per_sec;
        let new = match &self.smooth {
            // The first step may compile kernels or load data: it does not count towards the speed.
            None => Smooth { loss: record.loss, secs_per_step: secs, data_wait: record.data_wait },
            Some(old) => {
                let share = if self.first { 1.0 } else { 1.0 / SMOOTHING };
                self.first = false;
                let mix = |old: f64, new: f64| old + share * (new - old);
                Smooth {
                    loss: old.loss + (record.loss - old.loss) / SMOOTHING,
                    secs_per_step: mix(old.secs_per_step, secs),
                    data_wait: mix(old.data_wait, record.data_wait),
                }
            }
        };
        let left = (self.total - record.step) as f64 * new.secs_per_step;
        let text = format!(
            "epoch {:.2}  loss {:.4}  lr {:.2e}  {:.0} img/s  data wait {:.0} %  ETA {}",
            record.epoch,
            new.loss,
            record.lr,
            self.batch as f64 / new.secs_per_step,
            100.0 * new.data_wait,
            duration(left),
        );
        let text = text + &watch(record, &mut self.seen);
        self.smooth = Some(new);
        if let Some(bar) = &self.bar {
            bar.set_position(record.step);
            bar.set_message(text);
        } else if record.step == 1
            || record.step == self.total
            || self.line_at.elapsed() >= Duration::from_secs(LINE_SECS)
        {
            self.line_at = Instant::now();
            crate::say!("step {}/{}  {text}", record.step, self.total);
        }
    }
}

/// What tells a collapse, in a few words: those of the figures that the method has.
fn watch(record: &StepRecord, seen: &mut Seen) -> String {
    let figure = |name: &str| record.figures.get(name);
    seen.rank = figure("rank").or(seen.rank);
    seen.knn_top1 = figure("knn_top1").or(seen.knn_top1);
    let parts = [
        figure("positive").map(|v| format!("  pos {v:.2}")),
        figure("negative").map(|v| format!("  neg {v:.2}")),
        figure("explained").map(|v| format!("  explained {:.0} %", 100.0 * v)),
        figure("feature_spread").map(|v| format!("  spread {v:.2}")),
        figure("gradient_norm").map(|v| format!("  grad {v:.2}")),
        seen.rank.map(|v| format!("  rank {v:.0}")),
        seen.knn_top1.map(|v| format!("  k-NN {:.1} %", 100.0 * v)),
        figure("mfu").map(|v| format!("  MFU {:.0} %", 100.0 * v)),
    ];
    parts.into_iter().flatten().collect()
}

/// `47 s`, `3 min 20 s`, `5 h 12 min`, `6 d 3 h`.
pub(super) fn duration(secs: f64) -> String {
    let secs = secs.round().max(0.0) as u64;
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{} min {} s", secs / 60, secs % 60),
        3600..86_400 => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (secs, text) in
            [(0.4, "0 s"), (59.6, "1 min 0 s"), (3725.0, "1 h 2 min"), (90_000.0, "1 d 1 h")]
        {
            assert_eq!(duration(secs), text);
        }
    }
}
