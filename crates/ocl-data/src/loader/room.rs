//! A batch's memory, lent in pieces to the workers that fill it: what they write need not be
//! copied.

use std::ptr::NonNull;
use std::sync::Arc;

/// The memory of a batch while it is lent.
pub(super) struct Lent(Arc<Vec<f32>>);

/// A part of it, which nobody else reads or writes.
pub(super) struct Piece {
    values: NonNull<[f32]>,
    /// Keeps the memory, whatever becomes of who lent it.
    _owner: Arc<Vec<f32>>,
}

// SAFETY: a piece is the only way to its values, as a `&mut [f32]` would be, and that may be sent.
unsafe impl Send for Piece {}

impl Piece {
    pub(super) fn values(&mut self) -> &mut [f32] {
        // SAFETY: `lend` made the pieces from disjoint parts of a vector, which lives as long as
        // `_owner` does and gives nobody access before all pieces are gone.
        unsafe { self.values.as_mut() }
    }
}

/// Lends `values` in pieces of `piece` values; the last one may be shorter.
pub(super) fn lend(mut values: Vec<f32>, piece: usize) -> (Lent, Vec<Piece>) {
    // The pointers stay right when the vector moves: it owns its values elsewhere.
    let parts: Vec<NonNull<[f32]>> = values.chunks_mut(piece).map(NonNull::from).collect();
    let owner = Arc::new(values);
    let pieces = parts.into_iter().map(|values| Piece { values, _owner: Arc::clone(&owner) });
    let pieces = pieces.collect();
    (Lent(owner), pieces)
}

impl Lent {
    /// The memory, once every piece is gone; `None` before.
    pub(super) fn back(self) -> Option<Vec<f32>> {
        Arc::try_unwrap(self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_fill_their_pieces() {
        for (len, piece) in [(100, 7), (96, 32), (5, 8), (1, 1)] {
            let (lent, pieces) = lend(vec![0.0; len], piece);
            assert_eq!(pieces.len(), len.div_ceil(piece));
            let threads: Vec<_> = pieces
                .into_iter()
                .enumerate()
                .map(|(number, mut part)| {
                    std::thread::spawn(move || {
                        for (i, value) in part.values().iter_mut().enumerate() {
                            *value = (number * piece + i) as f32;
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let values = lent.back().unwrap();
            assert!(values.into_iter().eq((0..len).map(|i| i as f32)), "{len} in {piece}");
        }
    }

    #[test]
    fn what_is_still_lent_does_not_come_back() {
        let (lent, mut pieces) = lend(vec![1.0; 4], 2);
        pieces.pop();
        assert!(lent.back().is_none());
        // The piece that is left keeps the memory.
        pieces[0].values()[1] = 3.0;
        assert_eq!(pieces[0].values(), [1.0, 3.0]);
    }
}
