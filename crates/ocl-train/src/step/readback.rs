//! Reading a step's figures without holding the device up.
//!
//! A GPU works through a stream in order: figures that are asked for behind the next step's kernels
//! come after these, and the device then waits for the host to hand over another step. So a thread
//! of its own, whose stream is another one, asks for them as soon as their step has been handed
//! over.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use burn::tensor::Device;

use crate::device::is_gpu;
use crate::methods::{Figures, PendingFigures};

/// Figures and where they are wanted.
type Request = (PendingFigures, Sender<Figures>);

/// Reads figures of a device.
#[derive(Debug)]
pub struct Readback {
    /// None where the host computes: nothing is waited for.
    requests: Option<Sender<Request>>,
}

/// Figures that have been asked for.
#[derive(Debug)]
pub enum Reading {
    /// They lie in the host's memory.
    Here(PendingFigures),
    /// A thread waits for them.
    Asked(Receiver<Figures>),
}

impl Readback {
    /// For the figures of this device.
    pub fn of(device: &Device) -> Self {
        if !is_gpu(device) {
            return Self { requests: None };
        }
        let (requests, asked) = channel::<Request>();
        // It ends with its last request; where no thread can be had, figures are read in place.
        let reader = thread::Builder::new().name("ocl-readback".to_owned()).spawn(move || {
            for (figures, answer) in asked {
                // Whoever asked may have gone away.
                let _ = answer.send(figures.read());
            }
        });
        Self { requests: reader.ok().map(|_| requests) }
    }

    /// Asks for figures.
    pub fn ask(&self, figures: PendingFigures) -> Reading {
        let Some(requests) = &self.requests else { return Reading::Here(figures) };
        let (answer, figures_of) = channel();
        match requests.send((figures.joined(), answer)) {
            Ok(()) => Reading::Asked(figures_of),
            Err(refused) => Reading::Here(refused.0.0),
        }
    }
}

impl Reading {
    /// Waits for them.
    ///
    /// # Panics
    /// If the device failed.
    pub fn wait(self) -> Figures {
        match self {
            Self::Here(figures) => figures.read(),
            Self::Asked(figures) => figures.recv().expect("the device gives its figures"),
        }
    }
}
