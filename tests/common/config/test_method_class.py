"""A method's file, class or `__init__` that is not as it must be is a sentence before anything runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.config import entries, reading
from common.errors import UserError

HEAD = '''"""A method of a user."""
import torch
from methods.base import Method, cross_entropy

'''


def body(text: str) -> str:
    """A class with something in it."""
    return f"{HEAD}class Own(Method):\n    {text}\n"


FILES = {
    "empty": ("", "own.py: it must define exactly one subclass of Method, and has none"),
    "another class": ("class Own:\n    pass\n", "exactly one subclass of Method, and has none"),
    "Method itself": ("from methods.base import Method\n", "exactly one subclass of Method, and has none"),
    "two": (
        body("pass") + "class Two(Method):\n    pass\n",
        "exactly one subclass of Method, and has Own, Two",
    ),
    "a syntax error": ("class Own(:\n", "own.py cannot be loaded: SyntaxError: invalid syntax"),
    "wrong indentation": (
        f"{HEAD}class Own(Method):\npass\n",
        "cannot be loaded: IndentationError: expected an",
    ),
    "a null byte": ("\0", "own.py cannot be loaded|source code"),
    "an import of none": (
        "import nowhere\n",
        "cannot be loaded: ModuleNotFoundError: No module named 'nowhere'",
    ),
    "a name of none": (f"{HEAD}x = y\n", "cannot be loaded: NameError: name 'y' is not defined"),
    "an end": ("import sys\nsys.exit(3)\n", "own.py cannot be loaded: SystemExit: 3"),
    "an error": ("raise KeyError('own')\n", "own.py cannot be loaded: KeyError: 'own'"),
    "an assertion": ("assert False, 'never'\n", "own.py cannot be loaded: AssertionError: never"),
}

CLASSES = {
    "a default of no configuration": (
        "def __init__(self, num_classes, feature_channels, a=torch.ones(1)): pass",
        r"own.py: the default of the option a is tensor\(\[1.\]\), which no configuration can have",
    ),
    "refines": ('refines = "softmx"', "own.py: refines must be trained or softmax, not 'softmx'"),
    "refines none": ("refines = None", "own.py: refines must be trained or softmax, not None"),
    "refines two": ('refines = ("trained", "softmax")', "refines must be trained or softmax, not"),
    "refines as a method": ("def refines(self): return 'softmax'", "refines must be trained or softmax, not"),
    "a grid of none": ("grid = 0", "own.py: grid must be 1, a larger whole number, or full, not 0"),
    "a grid of a half": ("grid = 0.5", "grid must be 1, a larger whole number, or full, not 0.5"),
    "a grid of pixels": ('grid = "fine"', "grid must be 1, a larger whole number, or full, not 'fine'"),
    "a grid as a method": (
        "def grid(self): return 2",
        "grid must be 1, a larger whole number, or full, not <",
    ),
    "trained as a number": (
        "trained_as = 1",
        "own.py: trained_as must be the name of an entry or None, not 1",
    ),
    "trained as a class": ("trained_as = Method", "trained_as must be the name of an entry or None, not"),
    "trained as nothing": ('trained_as = ""', "trained_as must be the name of an entry or None, not ''"),
    "trained as several": ('trained_as = ["ce"]', "trained_as must be the name of an entry or None, not"),
    "los": (
        "def los(self, logits, labels): return 0",
        "los is no hook and would never be called: did you mean loss",
    ),
    "losses": ("def losses(self, logits, labels): return 0", "losses is no hook .*did you mean loss"),
    "refined": ("def refined(self, images, probabilities): return 0", "did you mean refine"),
    "structured": ("def structured(self, i, f, u): return u", "did you mean structure"),
    "probability": ("def probabilites(self, logits): return logits", "did you mean probabilities"),
    "diagnostic": ("def diagnostic(self): return {}", "did you mean diagnostics"),
    "auxillary_loss": ("def auxillary_loss(self, x, y): return 0", "did you mean auxiliary_loss"),
    "train_as": ('train_as = "ce"', "train_as is no hook .*did you mean trained_as"),
    "forward": (
        "def forward(self, x): return x",
        "forward is no hook .*the hooks are structure, loss, refine",
    ),
    "skipping when it is built": (
        "def skip(self, setting): return None",
        "own.py: skip is asked before the method is built: write @classmethod above def skip",
    ),
    "skipping without a setting": (
        "@classmethod\n    def skip(cls): return None",
        r"skip must be callable as a method, def skip\(self, setting\)",
    ),
    "a loss of one": (
        "def loss(self, logits): return 0",
        r"loss must be callable as a method, def loss\(self, logits",
    ),
    "a loss of something else": (
        "def loss(self, x, y, image): return 0",
        "own.py: loss asks for image, which there is not: beside logits and labels it may ask for images, fe",
    ),
    "an auxiliary loss of something else": (
        "def auxiliary_loss(self, x, y, image=None): return 0",
        "own.py: auxiliary_loss asks for image, which there is not: beside logits",
    ),
    "a loss of images by place": (
        "def loss(self, x, y, images, /): return 0",
        "loss must be callable as a method",
    ),
    "a loss of what nobody prepares": (
        "def loss(self, x, y, prepared): return 0",
        r"own.py: loss asks for prepared: define prepare\(self, labels\), which makes it",
    ),
    "a preparation for nobody": (
        "def prepare(self, labels): return labels",
        "own.py: prepare makes something that no loss asks for: let loss have a parameter prepared",
    ),
    "a preparation of images": (
        "def prepare(self, images, labels): return labels",
        r"prepare must be callable as a method, def prepare\(self, labels\)",
    ),
    "a loss by name": ("def loss(self, *, logits, labels): return 0", "loss must be callable as a method"),
    "a loss without self": ("def loss(logits, labels): return 0", "loss must be callable as a method"),
    "a loss that is a number": ("loss = 0.5", "loss must be callable as a method"),
    "no loss": ("loss = None", "loss must be callable as a method"),
    "a loss that is a class": ("loss = torch.nn.CrossEntropyLoss", "loss must be callable as a method"),
    "a property": (
        "@property\n    def structure(self): return None",
        "structure must be callable as a method",
    ),
    "a structure of two": (
        "def structure(self, images, unary): return unary",
        r"def structure\(self, images, feat",
    ),
    "diagnostics of one": ("def diagnostics(self, x): return {}", r"def diagnostics\(self\)"),
    "a fixed progress": (
        "@property\n    def progress(self): return 0.5",
        "progress is set by the stages: leave it",
    ),
}

INIT = "def __init__(self, num_classes, feature_channels"
BEGIN = "__init__ must begin with .self, num_classes, feature_channels., and begins with"
INITS = {
    "no arguments": ("def __init__(self): super().__init__(2, 3)", BEGIN),
    "one argument": ("def __init__(self, num_classes): super().__init__(2, 3)", BEGIN),
    "an option first": ("def __init__(self, gamma=2.0): super().__init__(2, 3)", BEGIN),
    "an option second": ("def __init__(self, num_classes, gamma=2.0): super().__init__(2, 3)", BEGIN),
    "exchanged": ("def __init__(self, feature_channels, num_classes): super().__init__(2, 3)", BEGIN),
    "anything": ("def __init__(self, *args, **options): super().__init__(2, 3)", BEGIN),
    "no super": (f"{INIT}): pass", r"own.py: __init__ must call super\(\).__init__\(num_classes, feature_ch"),
    "of Module alone": (f"{INIT}): torch.nn.Module.__init__(self)", r"__init__ must call super\(\).__init__"),
    "super too late": (
        f"{INIT}):\n        self.x = torch.nn.Linear(1, 1)",
        r"own.py:7: __init__ fails with AttributeError: cannot assign module before Module.__init__\(\) call",
    ),
    "super without arguments": (
        f"{INIT}): super().__init__()",
        r"own.py:6: __init__ fails with TypeError: .* missing 2 required positional arguments",
    ),
    "a wrong type": (
        f"{INIT}, a='x'): super().__init__(num_classes, feature_channels + a)",
        r"own.py:6: __init__ fails with TypeError: unsupported operand .* \(method_options.own\)",
    ),
    "a division": (f"{INIT}): 1 / 0", "own.py:6: __init__ fails with ZeroDivisionError: division by zero"),
    "a refusal": (f"{INIT}): raise ValueError('too few')", "^method_options.own: too few$"),
    "a grid set in it": (
        f"{INIT}):\n        super().__init__(2, 3)\n        self.grid = 2",
        "own.py: grid is 2 once it is built, and was 1: it is an attribute of the class, or an option",
    ),
    "a grid that is not kept": (
        f"{INIT}, grid=2): super().__init__(2, 3)",
        "own.py: grid is 1 once it is built, and was 2: it is an attribute of the class, or an option",
    ),
    "refines set in it": (
        f"{INIT}):\n        super().__init__(2, 3)\n        self.refines = 'x'",
        "own.py: refines must be trained or softmax, not 'x'",
    ),
}
WRONG = {
    **FILES,
    **{name: (body(text), sentence) for name, (text, sentence) in {**CLASSES, **INITS}.items()},
}


def build(name: str) -> None:
    tiny = {"datasets": ["digits"], "models": ["deeplabv3plus-test_resnet"], "seeds": [0], "methods": [name]}
    config = reading.complete(tiny | {"model_options": {"deeplabv3plus-test_resnet": {"weights": "none"}}})
    entries.method(config, name, "digits").build(3, 4)


@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG)
def test_is_one_sentence(text: str, sentence: str, own_method: Callable[[str], str]) -> None:
    name = own_method(text)
    with pytest.raises(UserError, match=sentence) as error:
        build(name)
    assert "own" in str(error.value)


RIGHT = {
    "nothing": body("pass"),
    "static hooks": body("@staticmethod\n    def loss(logits, labels): return cross_entropy(logits, labels)"),
    "class hooks": body("@classmethod\n    def probabilities(cls, logits): return logits.softmax(1)"),
    "any arguments": body("def loss(self, *tensors): return cross_entropy(*tensors)"),
    "other names": body("def loss(self, x, y, weight=1.0): return weight * cross_entropy(x, y)"),
    "private names": body("def _los(self): return 0"),
    "helpers": body("def margin(self): return 0\n    classes = property(lambda self: 3)"),
    "an abstract class before it": f"{HEAD}class _Base(Method):\n    pass\n\nclass Own(_Base):\n    pass\n",
    "options by name": body(
        "def __init__(self, num_classes, feature_channels, *, a: int = 1): super().__init__(num_classes, 2)"
    ),
    "refines set in it": body(
        "def __init__(self, num_classes, feature_channels, kind: str = 'softmax'):\n"
        "        super().__init__(num_classes, feature_channels)\n        self.refines = kind"
    ),
}


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_what_is_right_is_not_refused(text: str, own_method: Callable[[str], str]) -> None:
    build(own_method(text))
