"""BROKEN: a graph for each entry of TensorRT's restrictions that breaks it."""

from __future__ import annotations

BOTH = 'direction = "bidirectional", activations = '

IMAGE = "float[1,3,8,8] x"


def graph(body: str, *, inputs: str, constants: str = "", opset: int = 17, outputs: str = "float[A] y") -> str:
    return f'<ir_version: 9, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) <{constants}> {{ {body} }}'


def pool(body: str, shape: str = "1,3,8,8", outputs: str = "float[A,B,C,D] y") -> str:
    return graph(body, inputs=f"float[{shape}] x", outputs=outputs)


def recurrent(kind: str, gates: int, attributes: str, directions: int = 1) -> str:
    w = f"float[{directions},{gates * 4},3] w, float[{directions},{gates * 4},4] r"
    return graph(
        f"y = {kind} <hidden_size = 4, {attributes}> (x, w, r)", inputs=f"float[5,2,3] x, {w}", opset=14,
        outputs=f"float[A,{directions},B,C] y",
    )  # fmt: skip


def resize(attributes: str, opset: int = 18) -> str:
    return graph(
        f'y = Resize <mode = "linear", {attributes}> (x, , s)' if "mode =" not in attributes.replace("_mode", "")
        else f"y = Resize <{attributes}> (x, , s)",
        inputs="float[1,3,8,8] x", constants="float[4] s = {1,1,2,2}", opset=opset, outputs="float[1,3,16,16] y",
    )  # fmt: skip


# what breaks a restriction -> what is said, and a like graph that breaks none
BROKEN: dict[str, tuple[str, str, str]] = {
    "resize mode": ("mode is area", resize('mode = "area"'), resize('mode = "cubic"')),
    "resize coordinates": ("coordinate_transformation_mode is tf_crop_and_resize",
        resize('coordinate_transformation_mode = "tf_crop_and_resize"'), resize('coordinate_transformation_mode = "asymmetric"')),
    "resize nearest": ("nearest_mode is simple", resize('mode = "nearest", nearest_mode = "simple"'),
        resize('mode = "nearest", nearest_mode = "floor"')),
    "antialias": ("antialias is 1", resize("antialias = 1"), resize("antialias = 0")),
    "aspect": ("keep_aspect_ratio_policy is not_larger", graph('y = Resize <keep_aspect_ratio_policy = "not_larger"> (x, , , s)',
        inputs=IMAGE, constants="int64[4] s = {1,3,16,16}", opset=18, outputs="float[A,B,C,D] y"),
        resize('keep_aspect_ratio_policy = "stretch"')),
    "upsample": ("mode is cubic", graph('y = Upsample <mode = "cubic"> (x, s)', inputs=IMAGE, constants="float[4] s = {1,1,2,2}", opset=9,
        outputs="float[1,3,16,16] y"), graph('y = Upsample <mode = "linear"> (x, s)', inputs=IMAGE, constants="float[4] s = {1,1,2,2}",
        opset=9, outputs="float[1,3,16,16] y")),
    "dilated pool": ("dilations is 2", pool("y = MaxPool <kernel_shape = [2,2], dilations = [2,1]> (x)"),
        pool("y = MaxPool <kernel_shape = [2,2], dilations = [1,1]> (x)")),
    "4-d pool": ("has rank 6", pool("y = MaxPool <kernel_shape = [2,2,2,2]> (x)", "1,3,8,8,8,8", "float[A,B,C,D,E,F] y"),
        pool("y = MaxPool <kernel_shape = [2]> (x)", "1,3,8", "float[A,B,C] y")),
    "p of a pool": ("p is 3", pool("y = LpPool <kernel_shape = [2,2], p = 3> (x)"), pool("y = LpPool <kernel_shape = [2,2], p = 1> (x)")),
    "indices": ("output i is read", pool("y, i = MaxPool <kernel_shape = [2,2]> (x)",
        outputs="float[A,B,C,D] y, int64[A,B,C,D] i"), pool("y = MaxPool <kernel_shape = [2,2]> (x)")),
    "training": ("training_mode is 1", graph("y, m, v = BatchNormalization <training_mode = 1> (x, a, a, a, a)",
        inputs=f"{IMAGE}, float[3] a", opset=15, outputs="float[1,3,8,8] y"),
        graph("y = BatchNormalization (x, a, a, a, a)", inputs=f"{IMAGE}, float[3] a", opset=15, outputs="float[1,3,8,8] y")),
    "sorted": ("sorted is 0", graph("y, i = TopK <sorted = 0> (x, k)", inputs="float[9] x", constants="int64[1] k = {3}"),
        graph("y, i = TopK <sorted = 1> (x, k)", inputs="float[9] x", constants="int64[1] k = {3}")),
    "k": ("is 3840", graph("y, i = TopK (x, k)", inputs="float[9000] x", constants="int64[1] k = {3840}"),
        graph("y, i = TopK (x, k)", inputs="float[9000] x", constants="int64[1] k = {3839}")),
    "axis of a sum": ("input a is computed from the samples or from free sizes", graph("y = CumSum (x, a)", inputs="float[9] x, int64 a"),
        graph("y = CumSum (x, a)", inputs="float[9] x", constants="int64 a = {0}")),
    "sliced axes": ("input a is computed from the samples or from free sizes", graph("y = Slice (x, s, e, a)", inputs="float[9] x, int64[1] a",
        constants="int64[1] s = {0}, int64[1] e = {3}"), graph("y = Slice (x, s, e, a)", inputs="float[9] x",
        constants="int64[1] s = {0}, int64[1] e = {3}, int64[1] a = {0}")),
    "depth": ("input d is computed from the samples or from free sizes", graph("y = OneHot (x, d, v)", inputs="int64[9] x, int64 d",
        constants="float[2] v = {0,1}", outputs="float[A,B] y"), graph("s = Shape (x) d = Squeeze (s) y = OneHot (x, d, v)",
        inputs="int64[9] x", constants="float[2] v = {0,1}", outputs="float[A,B] y")),
    "reduced axes": ("input a is computed from the samples or from free sizes", graph("y = ReduceSum (x, a)", inputs="float[9,3] x, int64[1] a"),
        graph("b = Neg (a) y = ReduceSum <keepdims = 0> (x, b)", inputs="float[9,3] x", constants="int64[1] a = {1}")),
    "eye": ("has the shape [N,3]", graph("y = EyeLike (x)", inputs="float[N,3] x", outputs="float[N,3] y"),
        graph("y = EyeLike (x)", inputs="float[3,3] x", outputs="float[3,3] y")),
    "grid of a volume": ("has rank 5", graph("y = GridSample (x, g)", inputs="float[1,1,4,4,4] x, float[1,2,2,2,3] g", opset=20,
        outputs="float[1,1,2,2,2] y"), graph("y = GridSample (x, g)", inputs="float[1,1,4,4] x, float[1,2,2,2] g", opset=16,
        outputs="float[1,1,2,2] y")),
    "scattered sums": ("reduction is add", graph('y = ScatterND <reduction = "add"> (x, i, u)',
        inputs="float[9] x, int64[2,1] i, float[2] u"), graph("y = ScatterND (x, i, u)", inputs="float[9] x, int64[2,1] i, float[2] u")),
    "coupled gates": ("input_forget is 1", recurrent("LSTM", 4, "input_forget = 1"), recurrent("LSTM", 4, "input_forget = 0")),
    "batch first": ("layout is 1", graph("y = LSTM <hidden_size = 4, layout = 1> (x, w, r)", opset=14,
        inputs="float[2,5,3] x, float[1,16,3] w, float[1,16,4] r", outputs="float[A,B,C,D] y"), recurrent("LSTM", 4, "layout = 0")),
    "halves": ("directions have other activations", recurrent("RNN", 1, f'{BOTH} ["Tanh", "Relu"]', 2),
        recurrent("RNN", 1, f'{BOTH} ["Relu", "Relu"]', 2)),
    "capitals": ("equation is Bi,iB->B", graph('y = Einsum <equation = "Bi,iB->B"> (x, z)', inputs="float[3,4] x, float[4,3] z"),
        graph('y = Einsum <equation = "bi,ib->b"> (x, z)', inputs="float[3,4] x, float[4,3] z")),
    "random type": ("dtype is 11", graph("y = RandomUniform <shape = [3], dtype = 11> ()", inputs="float[3] x", outputs="double[3] y"),
        graph("y = RandomUniform <shape = [3], dtype = 1> ()", inputs="float[3] x", outputs="float[3] y")),
}  # fmt: skip


ATTENTION = "float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v"
