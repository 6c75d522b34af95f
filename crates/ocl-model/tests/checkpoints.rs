//! Checkpoints as training programs leave them: which network is taken of several, and that what is
//! no tensor is neither understood nor executed.

#![allow(clippy::unwrap_used, reason = "a test may")]

use burn::tensor::Device;
use ocl_model::{OpenOptions, OpenedWeights, WeightsError, open_weights, state_of};

/// A value of a checkpoint.
enum Value {
    Dict(Vec<(&'static str, Value)>),
    /// An encoder whose numbers are all the same, each name behind a prefix.
    Encoder(&'static str, f32),
    /// Two of them in one dictionary.
    Encoders([(&'static str, f32); 2]),
    /// Instructions of a pickle that leave one value.
    Pickle(&'static [u8]),
}

use Value::{Dict, Encoder, Encoders, Pickle};

const SHAPES: [(&str, &[usize]); 18] = [
    ("cls_token", &[1, 1, 8]),
    ("pos_embed", &[1, 5, 8]),
    ("patch_embed.proj.weight", &[8, 3, 4, 4]),
    ("patch_embed.proj.bias", &[8]),
    ("blocks.0.norm1.weight", &[8]),
    ("blocks.0.norm1.bias", &[8]),
    ("blocks.0.attn.qkv.weight", &[24, 8]),
    ("blocks.0.attn.qkv.bias", &[24]),
    ("blocks.0.attn.proj.weight", &[8, 8]),
    ("blocks.0.attn.proj.bias", &[8]),
    ("blocks.0.norm2.weight", &[8]),
    ("blocks.0.norm2.bias", &[8]),
    ("blocks.0.mlp.fc1.weight", &[16, 8]),
    ("blocks.0.mlp.fc1.bias", &[16]),
    ("blocks.0.mlp.fc2.weight", &[8, 16]),
    ("blocks.0.mlp.fc2.bias", &[8]),
    ("norm.weight", &[8]),
    ("norm.bias", &[8]),
];

/// A file in the form of PyTorch before 1.6, which needs no archive.
#[derive(Default)]
struct File {
    pickle: Vec<u8>,
    storages: Vec<Vec<f32>>,
}

impl File {
    fn bytes(value: &Value) -> Vec<u8> {
        let mut file = Self::default();
        file.put(value);
        let mut bytes = b"\x80\x02N.\x80\x02N.\x80\x02N.\x80\x02".to_vec();
        bytes.extend(&file.pickle);
        bytes.extend(b".\x80\x02](");
        (0..file.storages.len()).for_each(|key| bytes.extend(text(&key.to_string())));
        bytes.extend(b"e.");
        for storage in &file.storages {
            bytes.extend((storage.len() as u64).to_le_bytes());
            storage.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        }
        bytes
    }

    fn put(&mut self, value: &Value) {
        match value {
            Dict(entries) => {
                self.pickle.extend(b"}(");
                for (key, value) in entries {
                    self.pickle.extend(text(key));
                    self.put(value);
                }
                self.pickle.push(b'u');
            }
            &Encoder(prefix, fill) => self.encoders(&[(prefix, fill)]),
            Encoders(both) => self.encoders(both),
            Pickle(bytes) => self.pickle.extend(*bytes),
        }
    }

    fn encoders(&mut self, encoders: &[(&str, f32)]) {
        self.pickle.extend(b"ccollections\nOrderedDict\n)R(");
        for (prefix, fill) in encoders {
            for (name, shape) in SHAPES {
                self.pickle.extend(text(&format!("{prefix}{name}")));
                self.tensor(shape, *fill);
            }
        }
        self.pickle.push(b'u');
    }

    fn tensor(&mut self, shape: &[usize], fill: f32) {
        let len: usize = shape.iter().product();
        let out = &mut self.pickle;
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        out.extend(text("storage"));
        out.extend(b"ctorch\nFloatStorage\n");
        out.extend(text(&self.storages.len().to_string()));
        out.extend(text("cpu"));
        out.extend(number(len));
        out.extend(b"NtQK\x00(");
        shape.iter().for_each(|&len| out.extend(number(len)));
        out.extend(b"t(");
        let stride = |at: usize| shape[at + 1..].iter().product::<usize>();
        (0..shape.len()).for_each(|at| out.extend(number(stride(at))));
        out.extend(b"t\x89NtR");
        self.storages.push(vec![fill; len]);
    }
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn number(value: usize) -> Vec<u8> {
    [b"J", &(value as u32).to_le_bytes()[..]].concat()
}

fn open(value: &Value, prefix: Option<&str>) -> Result<OpenedWeights, WeightsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.pth");
    std::fs::write(&path, File::bytes(value)).unwrap();
    let prefix = prefix.map(str::to_owned);
    let options = OpenOptions { heads: Some(1), image_px: None, prefix };
    open_weights(&path, &options, &Device::default())
}

/// The number that the opened encoder is filled with.
fn fill(opened: &OpenedWeights) -> f32 {
    state_of(&opened.vit)["blocks.0.mlp.fc1.bias"].values[0]
}

#[test]
fn any_dictionary_that_alone_has_an_encoder_is_found() {
    for key in ["model_state_dict", "net", "weights", "params", "state_dict", "0", "Модель"] {
        let inside = || Dict(vec![("epoch", Pickle(b"K\x03")), (key, Encoder("module.", 2.0))]);
        for file in [inside(), Dict(vec![("checkpoint", inside())])] {
            let opened = open(&file, None).unwrap();
            assert_eq!((fill(&opened), opened.other_networks.len()), (2.0, 0), "{key}");
        }
    }
    // Beside a list.
    let listed = Dict(vec![("nets", Pickle(b"]")), ("model", Encoder("", 2.0))]);
    assert_eq!(fill(&open(&listed, None).unwrap()), 2.0);
    let error = open(&Dict(vec![("a", Pickle(b"N")), ("b", Dict(vec![]))]), None).unwrap_err();
    let text = chain(&error);
    assert!(text.contains("no dictionary of tensors") && text.contains("a, b"), "{text}");
    let whole = Pickle(b"cmodels\nViT\n)\x81}b");
    assert!(chain(&open(&whole, None).unwrap_err()).contains("save its state_dict()"));
}

#[test]
fn of_several_networks_the_one_meant_for_use_is_taken_and_the_others_are_named() {
    let beside = |first, second| Dict(vec![(first, Encoder("", 1.0)), (second, Encoder("", 2.0))]);
    let inside = |key, first, second| Dict(vec![(key, Encoders([(first, 1.0), (second, 2.0)]))]);
    for (file, taken, other) in [
        (beside("student", "teacher"), "teacher", "student"),
        (beside("model", "model_ema"), "model_ema", "model"),
        (beside("state_dict", "state_dict_ema"), "state_dict_ema", "state_dict"),
        (beside("model", "ema"), "ema", "model"),
        (beside("encoder", "target_encoder"), "target_encoder", "encoder"),
        (
            inside("state_dict", "student_backbone.", "teacher_backbone."),
            "state_dict.teacher_backbone",
            "state_dict.student_backbone",
        ),
        (
            inside("state_dict", "module.momentum_encoder.", "module.base_encoder."),
            "state_dict.module.base_encoder",
            "state_dict.module.momentum_encoder",
        ),
        (
            inside("model", "student.backbone.", "teacher.backbone."),
            "model.teacher.backbone",
            "model.student.backbone",
        ),
        (inside("state_dict", "", "ema_model."), "state_dict.ema_model", "state_dict"),
    ] {
        let opened = open(&file, None).unwrap();
        assert_eq!((fill(&opened), opened.network.as_str()), (2.0, taken));
        assert_eq!(opened.other_networks, [other]);
        let opened = open(&file, Some(other)).unwrap();
        assert_eq!((fill(&opened), opened.network.as_str()), (1.0, other));
        assert_eq!(opened.other_networks, [taken]);
    }
    let text = chain(&open(&beside("student", "teacher"), Some("head")).unwrap_err());
    assert!(text.contains("`head`") && text.contains("`student`, `teacher`"), "{text}");
}

/// Python 3.12 wrote these: `pickle.dumps(value, protocol=2)` without its first two bytes and its
/// last.
#[test]
fn objects_that_no_tensor_needs_are_passed_over() {
    for object in [
        &b"ctorch.torch_version\nTorchVersion\nX\x05\x00\x00\x002.9.0\x85\x81}b"[..],
        b"cargparse\nNamespace\n)\x81}X\x02\x00\x00\x00lrG?\xb9\x99\x99\x99\x99\x99\x9asb",
        b"comegaconf.dictconfig\nDictConfig\n)\x81}(X\x08\x00\x00\x00_contentNX\x07\x00\x00\x00_parentNub",
        b"cdatetime\ndatetime\nc_codecs\nencode\nX\x02\x00\x00\x00ab\
          X\x06\x00\x00\x00latin1\x86R\x85R",
        b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R(K\x03\
          X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbc_codecs\nencode\n\
          X\x08\x00\x00\x00aaaaaaaaX\x06\x00\x00\x00latin1\x86R\x86R",
        b"cuuid\nUUID\n)\x81}X\x03\x00\x00\x00int\x8a\x01\x07sb",
        b"ccopy_reg\n_reconstructor\nctimm.utils\nX\nc__builtin__\nobject\nN\x87R",
        b"cbuiltins\ngetattr\ncenum\nKind\nX\x01\x00\x00\x00A\x86R",
        b"cfunctools\npartial\ncmy.code\nloss\n\x85R",
        b"ceasydict\nEasyDict\n)\x81X\x01\x00\x00\x00aK\x01s}X\x01\x00\x00\x00aK\x01sb",
    ] {
        // Behind the weights and before them.
        for order in [[0, 1], [1, 0]] {
            let name = |which| if which == 0 { "about" } else { "model" };
            let value = |which| match which {
                0 => Pickle(object),
                _ => Encoder("", 2.0),
            };
            let file = Dict(order.map(|which| (name(which), value(which))).into());
            let opened = open(&file, None);
            assert_eq!(opened.as_ref().map(fill).unwrap(), 2.0, "{object:?}");
        }
    }
}

#[test]
fn what_would_run_a_program_is_refused_by_name_and_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let command = format!("touch {}", mark.display());
    for function in
        ["posix\nsystem", "os\nsystem", "os\npopen", "subprocess\nPopen", "builtins\neval"]
    {
        let call = [b"c", function.as_bytes(), b"\n", &text(&command), b"\x85R"].concat();
        let file = Dict(vec![("model", Encoder("", 2.0)), ("x", Pickle(call.leak()))]);
        let text = chain(&open(&file, None).unwrap_err());
        let name = function.replace('\n', ".");
        assert!(text.contains(&name) && text.contains("not executed"), "{text}");
    }
    // A detour over objects that are kept as they are.
    let call = [
        b"cbuiltins\ngetattr\ncsys\nmodules\nX\x06\x00\x00\x00system\x86R",
        &text(&command)[..],
        b"\x85R",
    ];
    let file = Dict(vec![("model", Encoder("", 2.0)), ("x", Pickle(call.concat().leak()))]);
    assert_eq!(fill(&open(&file, None).unwrap()), 2.0);
    assert!(!mark.exists());
}

#[test]
fn dictionaries_in_one_another_without_end_are_read_in_time() {
    // A dictionary that holds itself, and one whose every level holds the next one twice.
    let mut pickle = b"}q\x00X\x01\x00\x00\x00ah\x00s".to_vec();
    for _ in 0..60 {
        pickle.extend(b"q\x010}(X\x01\x00\x00\x00ah\x01X\x01\x00\x00\x00bh\x01u");
    }
    let file = Dict(vec![("x", Pickle(pickle.leak())), ("model", Encoder("", 2.0))]);
    assert_eq!(fill(&open(&file, None).unwrap()), 2.0);
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
