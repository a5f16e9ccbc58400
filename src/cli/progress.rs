//! How far something is, on standard error.

use std::io::{IsTerminal as _, Write as _};

/// One line that is written over on a terminal, a line each time elsewhere.
pub(super) struct Progress {
    terminal: bool,
    shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: false }
    }

    pub(super) fn say(&mut self, text: &str) {
        if self.terminal {
            self.draw(text);
        } else {
            anstream::eprintln!("{text}");
        }
    }

    /// For what changes too often to be said line by line: nothing where nobody looks.
    pub(super) fn draw(&mut self, text: &str) {
        if self.terminal {
            self.shown = true;
            anstream::eprint!("\r{text}\u{1b}[K");
            let _ = std::io::stderr().flush();
        }
    }

    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            anstream::eprintln!();
        }
    }
}
