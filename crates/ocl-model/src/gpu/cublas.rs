//! cuBLASLt on the stream that cubecl computes on.
//!
//! It has kernels for each generation of tensor cores and chooses among them without trying them
//! out, and f32 stays f32 unless TF32 is asked for. The library is opened when first needed; where
//! it is not found burn's products serve.
//!
//! A product is a task of cubecl's server thread, as a kernel's launch is: so it takes its place in
//! the order of launches, and neither host nor device waits.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::OnceLock;

use burn::tensor::DType;
use burn_cubecl::CubeDevice;
use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::CudaRuntime;
use cubecl::server::{BufferBinding, ServerError, ServerStorage};
use cubecl_common::device_handle::DeviceHandle;
use cubecl_runtime::runtime::Runtime;
use cubecl_runtime::storage::{ComputeStorage, ManagedResource};
use cubecl_server::stream::{ExecuteScope, WriteScoped};
use cudarc::cublaslt::{result, sys};
use cudarc::driver::sys::CUstream;

use super::gemm::Gemm;
use crate::precision::Precision;

type Server = <CudaRuntime as Runtime>::Server;

/// Bytes that a product may use besides its operands: what NVIDIA recommends for Hopper.
const WORKSPACE: u64 = 32 << 20;

/// Whether a tensor's products run here.
pub(super) fn serves(tensor: &CubeTensor) -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    // SAFETY: opens the library to look whether it is there; CUDA's have no harmful initialisers.
    matches!(tensor.device, CubeDevice::Cuda(_))
        && *FOUND.get_or_init(|| unsafe { sys::is_culib_present() })
}

/// What decides how a product is computed. Not alignment, since cubecl gives every buffer 512 bytes
/// of it, nor the stream: descriptions belong to the server's one thread. Matrices are as cuBLAS
/// sees them: columns first, so that our row-major `out = lhs rhs` is its `out^T = rhs^T lhs^T`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Problem {
    rows: usize,
    inner: usize,
    columns: usize,
    lhs_transposed: bool,
    rhs_transposed: bool,
    factors: Number,
    out: Number,
    bias: bool,
    plus: bool,
    tf32: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Number {
    F32,
    Bf16,
}

impl Number {
    fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::BF16 => Self::Bf16,
            other => panic!("products are of F32 or BF16, got {other:?}"),
        }
    }

    fn to_sys(self) -> sys::cudaDataType {
        match self {
            Self::F32 => sys::cudaDataType_t::CUDA_R_32F,
            Self::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        }
    }
}

/// Enqueues a product that writes `out`.
pub(super) fn launch(product: &Gemm<'_>, out: &CubeTensor) {
    let [rows, inner, columns] = product.dims();
    let problem = Problem {
        rows,
        inner,
        columns,
        lhs_transposed: product.lhs_transposed,
        rhs_transposed: product.rhs_transposed,
        factors: Number::of(product.lhs.dtype),
        out: Number::of(out.dtype),
        bias: product.bias.is_some(),
        plus: product.plus.is_some(),
        tf32: product.precision == Precision::Tf32,
    };
    let client = &out.client;
    let binding = |tensor: &CubeTensor| tensor.handle.clone().binding();
    let operands = Operands {
        lhs: binding(product.lhs),
        rhs: binding(product.rhs),
        bias: product.bias.map(binding),
        plus: product.plus.map(binding),
        out: binding(out),
        workspace: client.empty(WORKSPACE as usize).binding(),
    };
    let handle = DeviceHandle::<Server>::new(client.service_id().device);
    handle.submit(move |server| {
        // The output was just made, on the stream that its maker launches on.
        let (stream, written) = (operands.out.stream, vec![operands.out.clone()]);
        // Looked up before the scope, whose claim on the output would refuse its address.
        let bindings = operands.all();
        let addresses = operands.addresses(server);
        // A failure stays with the output: whoever reads it is told.
        let _ = ExecuteScope::over(server, stream, written).execute(|server| {
            let (held, addresses) = addresses?;
            // With all operands, so that those of another stream stay until this one has read them.
            let mut streams = server.write_streams().resolve(stream, bindings.iter())?;
            let cuda_stream = streams.current().sys;
            let enqueued = with_algorithm(problem, |library, algorithm| {
                algorithm.enqueue(library, addresses, cuda_stream)
            });
            drop(held);
            enqueued.map_err(|error| ServerError::Generic {
                reason: format!("cuBLASLt: {error}"),
                backtrace: Default::default(),
            })
        });
    });
}

struct Operands {
    lhs: BufferBinding,
    rhs: BufferBinding,
    bias: Option<BufferBinding>,
    plus: Option<BufferBinding>,
    out: BufferBinding,
    workspace: BufferBinding,
}

/// Where operands lie in device memory.
struct Addresses {
    lhs: u64,
    rhs: u64,
    bias: Option<u64>,
    plus: Option<u64>,
    out: u64,
    workspace: u64,
}

/// What keeps memory in its place while addresses are in use.
type Held = Vec<ManagedResource<<<Server as ServerStorage>::Storage as ComputeStorage>::Resource>>;

impl Operands {
    fn all(&self) -> Vec<BufferBinding> {
        let optional = [&self.bias, &self.plus].into_iter().flatten();
        [&self.lhs, &self.rhs, &self.out, &self.workspace]
            .into_iter()
            .chain(optional)
            .cloned()
            .collect()
    }

    fn addresses(self, server: &mut Server) -> Result<(Held, Addresses), ServerError> {
        let stream = self.out.stream;
        let mut held = Vec::with_capacity(6);
        let mut address = |binding: BufferBinding| -> Result<u64, ServerError> {
            let resource = server.get_resource(binding, stream)?;
            let address = resource.resource().ptr;
            held.push(resource);
            Ok(address)
        };
        let addresses = Addresses {
            lhs: address(self.lhs)?,
            rhs: address(self.rhs)?,
            bias: self.bias.map(&mut address).transpose()?,
            plus: self.plus.map(&mut address).transpose()?,
            out: address(self.out)?,
            workspace: address(self.workspace)?,
        };
        Ok((held, addresses))
    }
}

/// A product that the library has chosen a kernel for. Lives on the server's thread, to its end.
struct Algorithm {
    problem: Problem,
    description: sys::cublasLtMatmulDesc_t,
    /// Of `rhs`, `lhs` and the result, in the library's order.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    chosen: sys::cublasLtMatmulAlgo_t,
}

thread_local! {
    static ALGORITHMS: RefCell<Option<(sys::cublasLtHandle_t, HashMap<Problem, Algorithm>)>> =
        const { RefCell::new(None) };
}

fn with_algorithm<R>(
    problem: Problem,
    work: impl FnOnce(sys::cublasLtHandle_t, &Algorithm) -> Result<R, result::CublasError>,
) -> Result<R, result::CublasError> {
    ALGORITHMS.with_borrow_mut(|state| {
        let (library, algorithms) = match state {
            Some(state) => state,
            None => state.insert((result::create_handle()?, HashMap::new())),
        };
        let algorithm = match algorithms.entry(problem) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Algorithm::choose(*library, problem)?)
            }
        };
        work(*library, algorithm)
    })
}

impl Algorithm {
    fn choose(
        library: sys::cublasLtHandle_t,
        problem: Problem,
    ) -> Result<Self, result::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let Problem { rows, inner, columns, .. } = problem;
        let compute = match problem.tf32 {
            true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let description = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)?;
        set(
            description,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
            &i32::from(problem.rhs_transposed),
        )?;
        set(
            description,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSB,
            &i32::from(problem.lhs_transposed),
        )?;
        if problem.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            let number = sys::cudaDataType_t::CUDA_R_32F;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &number)?;
            // Any address, so that kernels for a bias are looked for; the right one comes with the
            // call.
            let address = 256u64;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address)?;
        }
        // As stored, the row-major matrix `[r, c]` is `[c, r]` with columns first.
        let layout = |number: Number, stored: [usize; 2]| {
            let [r, c] = stored.map(|n| n as u64);
            result::create_matrix_layout(number.to_sys(), c, r, c as i64)
        };
        let turned =
            |transposed: bool, [a, b]: [usize; 2]| if transposed { [b, a] } else { [a, b] };
        let layouts = [
            layout(problem.factors, turned(problem.rhs_transposed, [inner, columns]))?,
            layout(problem.factors, turned(problem.lhs_transposed, [rows, inner]))?,
            layout(problem.out, [rows, columns])?,
        ];
        let preference = result::create_matmul_pref()?;
        let limit = WORKSPACE as usize;
        // SAFETY: all five descriptors were just made; the attribute is a size.
        let found = unsafe {
            result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const limit).cast(),
                size_of::<usize>(),
            )?;
            let [a, b, c] = layouts;
            let found =
                result::get_matmul_algo_heuristic(library, description, a, b, c, c, preference);
            result::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Self { problem, description, layouts, chosen: found.algo })
    }

    fn enqueue(
        &self,
        library: sys::cublasLtHandle_t,
        at: Addresses,
        stream: CUstream,
    ) -> Result<(), result::CublasError> {
        if let Some(bias) = at.bias {
            let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            set(self.description, attribute, &bias)?;
        }
        let alpha = 1.0f32;
        let beta = if self.problem.plus { 1.0f32 } else { 0.0 };
        let [a, b, c] = self.layouts;
        // SAFETY: the addresses are of live buffers of the sizes that the layouts tell, held until
        // the call has been enqueued on the stream that owns them.
        unsafe {
            result::matmul(
                library,
                self.description,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                at.rhs as *const c_void,
                a,
                at.lhs as *const c_void,
                b,
                at.plus.unwrap_or(at.out) as *const c_void,
                c,
                at.out as *mut c_void,
                c,
                &self.chosen,
                at.workspace as *mut c_void,
                WORKSPACE as usize,
                stream.cast(),
            )
        }
    }
}

/// Sets an attribute of a product's description.
fn set<T>(
    description: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<(), result::CublasError> {
    let value: *const T = value;
    // SAFETY: the description is alive, and the value is read before the call returns.
    unsafe {
        result::set_matmul_desc_attribute(description, attribute, value.cast(), size_of::<T>())
    }
}
