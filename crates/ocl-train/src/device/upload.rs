//! From a batch on the host to tensors on a device.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::is_gpu;

/// Values that go to a GPU at once. Of 100 MiB and more burn's runtime makes no copy in pinned
/// memory: the transfer then waits for all that the device was given before, and the device for the
/// transfer.
const PIECE: usize = 16 << 20;

/// Sends patches and their positions to a device.
///
/// # Shapes
/// - `patches`: N times K times P values, in this order, and `shape` is `[N, K, P]`.
/// - result: patches `[N, K, P]`, positions `[N, K]`.
///
/// # Panics
/// If there are not as many values as the shape says.
pub fn batch_tensors(
    patches: Vec<f32>,
    positions: &[u32],
    shape: [usize; 3],
    device: &Device,
) -> (Tensor<3>, Tensor<2, Int>) {
    let [n, k, _] = shape;
    let positions: Vec<i32> = positions.iter().map(|&position| position as i32).collect();
    let positions = Tensor::from_data(TensorData::new(positions, [n, k]), device);
    let piece = if is_gpu(device) { PIECE } else { usize::MAX };
    (in_pieces(patches, shape, piece, device), positions)
}

/// A tensor `[N, K, P]` that travels in pieces of at most `piece` values, or of one image.
fn in_pieces(values: Vec<f32>, [n, k, p]: [usize; 3], piece: usize, device: &Device) -> Tensor<3> {
    if values.len() <= piece {
        return Tensor::from_data(TensorData::new(values, [n, k, p]), device);
    }
    let image = k * p;
    let pieces = values.chunks((piece / image).max(1) * image);
    let pieces = pieces.map(|values| {
        let shape = [values.len() / image, k, p];
        Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
    });
    Tensor::cat(pieces.collect(), 0) // [N, K, P]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_whole() {
        let device = Device::default();
        let values: Vec<f32> = (0..7 * 2 * 3).map(|i| i as f32).collect();
        for piece in [1, 6, 13, 18, 41, 42, 1000] {
            let found = in_pieces(values.clone(), [7, 2, 3], piece, &device);
            assert_eq!(found.dims(), [7, 2, 3]);
            assert_eq!(found.into_data().try_into_vec::<f32>().unwrap(), values, "{piece}");
        }
    }
}
