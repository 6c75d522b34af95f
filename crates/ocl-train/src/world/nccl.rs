//! Values of CUDA devices, exchanged from device to device by NCCL.
//!
//! Type-checked only: it has not run on several GPUs yet. On these the promise is 1e-5, not bits:
//! NCCL has one result on all ranks, but another for another number of them.
//!
//! The library is opened when first needed. Collectives work in place, on memory that the host has
//! waited for: cubecl's streams are its own, and NCCL's is ours.

use std::fmt;
use std::sync::Arc;

use burn::backend::{Cube, DispatchDevice};
use burn::tensor::{Device, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::CubeDevice;
use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::CudaRuntime;
use cubecl_runtime::runtime::Runtime;
use cudarc::driver::{CudaContext, CudaStream, DriverError};
use cudarc::nccl::{result, sys};

use super::WorldError;

type Server = <CudaRuntime as Runtime>::Server;

/// Bytes of the name under which processes join.
pub(super) const ID_BYTES: usize = 128;

/// This process's device among those of the run.
pub(super) struct Nccl {
    comm: sys::ncclComm_t,
    stream: Arc<CudaStream>,
    rank: usize,
}

/// The name under which all processes join; the root makes it.
pub(super) fn new_id() -> Result<[u8; ID_BYTES], WorldError> {
    // SAFETY: opens the library to look whether it is there; it has no harmful initialisers.
    if !unsafe { sys::is_culib_present() } {
        return Err(WorldError::NoNccl);
    }
    let id = result::get_uniqueid().map_err(failed)?;
    Ok(id.internal.map(|byte| byte as u8))
}

impl Nccl {
    /// Joins the others; returns when all have.
    pub(super) fn join(
        id: [u8; ID_BYTES],
        device: &Device,
        rank: usize,
        size: usize,
    ) -> Result<Self, WorldError> {
        let number = cuda_number(device)
            .ok_or_else(|| WorldError::Nccl("the device is no CUDA device".to_owned()))?;
        // The primary context, which cubecl uses too: its addresses are good here.
        let context = CudaContext::new(number).map_err(no_stream)?;
        let stream = context.new_stream().map_err(no_stream)?;
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as _) };
        let ranks = |n: usize| i32::try_from(n).expect("MPI counts with 32 bits");
        let mut comm = std::ptr::null_mut();
        // SAFETY: `comm` is written before it is read, and every process calls this once with one
        // id and a rank of its own.
        unsafe { result::comm_init_rank(&raw mut comm, ranks(size), id, ranks(rank)) }
            .map_err(failed)?;
        Ok(Self { comm, stream, rank })
    }

    /// Whether values of this device travel here.
    pub(super) fn serves(device: &Device) -> bool {
        cuda_number(device).is_some()
    }

    /// The sums over all processes, in place of `tensors`.
    ///
    /// # Panics
    /// If NCCL fails: another process is gone.
    pub(super) fn sum(&self, tensors: Vec<Tensor<1>>) -> Vec<Tensor<1>> {
        let sums = tensors.iter().map(|tensor| memory(tensor.clone())).collect::<Vec<_>>();
        self.exchange(&sums, |buffer| {
            // SAFETY: the buffer holds so many f32, is written by nobody else, and outlives the
            // stream's synchronisation.
            unsafe {
                result::all_reduce(
                    buffer.address as *const _,
                    buffer.address as *mut _,
                    buffer.values,
                    sys::ncclDataType_t::ncclFloat32,
                    sys::ncclRedOp_t::ncclSum,
                    self.comm,
                    self.stream.cu_stream().cast(),
                )
            }
        });
        tensors
    }

    /// Rows of all processes in order: `rows` of them from each, this process's being `own`.
    ///
    /// # Panics
    /// If NCCL fails: another process is gone.
    pub(super) fn rows(&self, own: Tensor<3>, rows: &[usize]) -> Tensor<3> {
        let ([_, views, width], device) = (own.dims(), own.device());
        let first = |rank: usize| rows[..rank].iter().sum::<usize>();
        let all = first(rows.len());
        let (from, to) = (first(self.rank), first(self.rank + 1));
        let whole = Tensor::<3>::zeros([all, views, width], &device);
        let whole = whole.slice_assign([from..to, 0..views, 0..width], own);
        let buffer = memory(whole.clone());
        let values = views * width;
        let pieces: Vec<Piece> = (0..rows.len())
            .map(|rank| buffer.piece(first(rank) * values, rows[rank] * values))
            .collect();
        let mut root = 0;
        self.exchange(&pieces, |piece| {
            // SAFETY: the piece lies inside of the buffer, which outlives the synchronisation.
            let sent = unsafe {
                result::broadcast(
                    piece.address as *const _,
                    piece.address as *mut _,
                    piece.values,
                    sys::ncclDataType_t::ncclFloat32,
                    root,
                    self.comm,
                    self.stream.cu_stream().cast(),
                )
            };
            root += 1;
            sent
        });
        whole
    }

    /// Enters a collective for each buffer as one group, and waits for the end of all.
    fn exchange<B>(
        &self,
        buffers: &[B],
        mut enter: impl FnMut(&B) -> Result<result::NcclStatus, result::NcclError>,
    ) {
        let entered = result::group_start()
            .and_then(|_| buffers.iter().try_for_each(|buffer| enter(buffer).map(drop)))
            .and_then(|()| result::group_end());
        if let Err(error) = entered {
            panic!("{}", failed(error));
        }
        self.stream.synchronize().expect("NCCL ends: no other process is gone");
    }
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of NCCL", self.rank)
    }
}

/// Values on a device, which cubecl leaves where they are as long as this lives.
struct Buffer {
    address: u64,
    values: usize,
    _tensor: CubeTensor,
    _held: Box<dyn std::any::Any>,
}

/// A part of a buffer.
struct Piece {
    address: u64,
    values: usize,
}

impl Buffer {
    fn piece(&self, first: usize, values: usize) -> Piece {
        Piece { address: self.address + 4 * first as u64, values }
    }
}

/// A tensor's memory, when all that makes its values has ended.
fn memory<const D: usize>(tensor: Tensor<D>) -> Buffer {
    let device = tensor.device();
    let fused = tensor.try_into_primitive::<Cube>().expect("a tensor of a GPU, without autodiff");
    let tensor: CubeTensor = fused.client.clone().resolve_tensor_float::<CubeBackend>(fused);
    assert!(tensor.is_contiguous(), "gradients and embeddings lie in one piece");
    device.sync().expect("the device is alive");
    let held = tensor.client.get_resource::<Server>(tensor.handle.clone());
    let held = held.expect("a tensor of CUDA has memory there");
    let address = held.resource().ptr;
    let values = tensor.meta.num_elements();
    Buffer { address, values, _tensor: tensor, _held: Box::new(held) }
}

/// The number of a CUDA device; none for others.
fn cuda_number(device: &Device) -> Option<usize> {
    let device = device.clone().without_autodiff();
    match device.as_dispatch() {
        DispatchDevice::Cube(CubeDevice::Cuda(cuda)) => Some(cuda.index),
        _ => None,
    }
}

fn failed(error: result::NcclError) -> WorldError {
    WorldError::Nccl(format!("{:?}", error.0))
}

fn no_stream(error: DriverError) -> WorldError {
    WorldError::Nccl(error.to_string())
}
