"""What `mutants.py` knows of single mutants: mistakes that people could make, and changes that change nothing."""

from __future__ import annotations

_CGN, _DIGITS = ["tests/training/generators/test_cgn_mnist.py"], ["tests/training/classifier/test_digits.py"]
_SCORING, _CLASSES = ["tests/evaluation/test_scoring.py"], ["tests/evaluation/test_classes.py"]
_STYLE, _GAME = ["tests/transforms/test_style_transfer.py"], ["tests/training/generators/test_adversarial.py"]
_GANS = ["tests/papers/test_small_generators.py"]

# file below genaug/, text, what stands there by mistake, the quick tests that are to notice
NAMED: list[tuple[str, str, str, list[str]]] = [
    ("_common/imagenet.py", "(0.485, 0.456, 0.406)", "(0.5, 0.456, 0.406)", ["tests/transforms/test_batch.py"]),
    ("_common/imagenet.py", "(0.229, 0.224, 0.225)", "(0.229, 0.224, 0.25)", ["tests/transforms/test_batch.py"]),
    ("training/classifier/digits.py", "ADAM = 2e-3", "ADAM = 2e-2", _DIGITS),
    (
        "training/classifier/loop.py",
        "Adam(parameters, rate, weight_decay=decay)",
        "Adam(parameters, rate)",
        ["tests/training/classifier/test_loop.py"],
    ),
    ("papers/lntl.py", "LEVELS = 0.01, 0.1, 8", "LEVELS = 0.1, 0.01, 8", ["tests/papers/test_lntl.py"]),
    ("papers/irm.py", "seed=seed * len(there) + place", "seed=place", ["tests/papers/test_irm.py"]),
    ("training/generators/cgn_mnist.py", "weights[name] * loss for", "loss for", _CGN),
    (
        "training/generators/cgn_mnist.py",
        "detection(real, fake, labels)",
        "detection(real, fake, labels.flip(0))",
        _CGN,
    ),
    (
        "training/generators/adversarial.py",
        "self._judged(fake.detach(), labels)",
        "self._judged(fake.detach(), labels.flip(0))",
        _GAME,
    ),
    ("papers/plain_gan.py", "detection(real, fake, classes)", "detection(real, fake, classes.flip(0))", _GANS),
    ("papers/small_generators.py", "made, classes))\n    return", "made, classes.flip(0)))\n    return", _GANS),
    (
        "transforms/style_transfer.py",
        "    style_weight: float = 1e6,\n    content",
        "    style_weight: float = 1e5,\n    content",
        _STYLE,
    ),
    (
        "transforms/style_transfer.py",
        "        style_weight: float = 1e6,\n        ",
        "        style_weight: float = 1e5,\n        ",
        _STYLE,
    ),
    ("evaluation/scoring.py", "@torch.no_grad()\n", "", _SCORING),
    (
        "datasets/generated.py",
        "with torch.no_grad(), evaluating",
        "with evaluating",
        ["tests/datasets/test_counterfactual.py"],
    ),
    ("evaluation/classes.py", "wok: 909", "", _CLASSES),
    ("evaluation/classes.py", "banana: 954; ", "", _CLASSES),
    ("evaluation/classes.py", "41313 6511", "41312 6512", _CLASSES),
]

# a mutant as `mutants.py` prints it, and why no test can notice it
_SAME_LENGTH = "both have the same length, so that strict has nothing to refuse"
_NO_ELEVENTH = "digits have ten classes, so that nothing reads the row of an eleventh"
EQUIVALENT: dict[str, str] = {
    "interventions/random_streams.py: for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):"
    "  ->  for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=False):": _SAME_LENGTH,
    "interventions/random_streams.py: for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):"
    "  ->  for shift, multiplier in zip((30, 27), _MULTIPLIERS):": _SAME_LENGTH,
    "training/generators/cgn_losses.py: for weight, ours, theirs in zip(self.weights, made, wanted, strict=False):"
    "  ->  for weight, ours, theirs in zip(self.weights, made, wanted):": "strict is False by default",
    "evaluation/intervals.py: self._both = np.where(low < 0, -1, low * (members.max(initial=0) + 1) + high)"
    "  ->  self._both = np.where(low < 0, -1, low * (members.max(initial=1) + 1) + high)": "a pair's number needs "
    "a factor above the largest member, and which one does not matter",
    "evaluation/intervals.py: if most > 8 * (len(one) + len(two)):"
    "  ->  if most > 9 * (len(one) + len(two)):": "where memory is saved; the sums are the same either way",
    "evaluation/intervals.py: total = spread / variance if variance > 1e-12 and spread > 0 else float(photographs)"
    "  ->  total = spread / variance if variance > 1e-12 and spread >= 0 else float(photographs)": "a mean of 0 or 1 "
    "is of equal values, which have no variance",
    "evaluation/intervals.py: of = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, members[rows, columns])), "
    "shape=shape)  ->  of = csr_matrix((np.ones(len(rows)), (rows, members[rows, columns])), shape=shape)": "all "
    "entries become 1, which float32 holds exactly in half the memory",
    "evaluation/intervals.py: sums = [np.bincount(where, weights=of, minlength=most + 1) for where, of in "
    "((one, a), (two, b))]  ->  sums = [np.bincount(where, weights=of, minlength=most + 2) for where, of in "
    "((one, a), (two, b))]": "both sums get one more zero, which adds nothing to their product",
    "evaluation/intervals.py: shape = (len(members), int(members.max(initial=0)) + 1)"
    "  ->  shape = (len(members), int(members.max(initial=1)) + 1)": "a sparse matrix gets an empty column",
    "training/generators/adversarial.py: members = torch.nn.utils.rnn.pad_sequence("
    "[(labels == c).nonzero()[:, 0] for c in range(10)], batch_first=True)"
    "  ->  members = torch.nn.utils.rnn.pad_sequence("
    "[(labels == c).nonzero()[:, 0] for c in range(11)], batch_first=True)": _NO_ELEVENTH,
    "training/generators/adversarial.py: def __init__(self, num_classes: int=10, width: int=64, *, image_size: int=32)"
    " -> None:  ->  def __init__(self, num_classes: int=10, width: int=64, *, image_size: int=33) -> None:": "three "
    "strides of 2 leave 4 of 33 places as of 32",
    "datasets/generated.py: with torch.no_grad(), evaluating  ->  with evaluating": "`isolated`, in which images are "
    "made, turns gradients off, too",
}
