//! Results: their records, their text, pictures, and the comparison that ends a pre-training.

mod comparison;
mod components;
mod font;
mod grid;
mod inspect;
mod paint;
mod results;
mod table;
mod verdict;
mod views;

pub use comparison::{Findings, REPORT_LIMITS, report};
pub(crate) use font::font;
pub use grid::write_grid;
pub use inspect::Inspection;
pub(crate) use results::commit;
pub use results::{Circumstances, ResultRecord, append_results, prepare_results, results_file};
pub use table::results_text;
pub use views::{views, write_views};
