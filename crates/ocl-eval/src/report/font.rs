//! The font of all pictures, so that no machine needs one.

use std::sync::Once;

use plotters::style::{FontStyle, register_font};

/// Its name, after it has been made known.
pub(crate) fn font() -> &'static str {
    const NAME: &str = "sans-serif";
    static KNOWN: Once = Once::new();
    KNOWN.call_once(|| {
        // Fails for what is no font only.
        let _ = register_font(NAME, FontStyle::Normal, dejavu::sans::regular());
    });
    NAME
}
