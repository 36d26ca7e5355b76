"""The classes of PASCAL-Context's tasks."""

SEMANTIC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
    "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
"""PASCAL VOC's 21 classes."""

PERSON = SEMANTIC.index("person")

HUMAN_PARTS = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")

_HEAD, _TORSO, _UPPER_ARM, _LOWER_ARM, _UPPER_LEG, _LOWER_LEG = range(1, 7)
HUMAN_PART_OF = {
    **dict.fromkeys(("head", "hair", "lear", "rear", "lebrow", "rebrow", "leye", "reye", "nose", "mouth"), _HEAD),
    **dict.fromkeys(("torso", "neck"), _TORSO),
    **dict.fromkeys(("luarm", "ruarm"), _UPPER_ARM),
    **dict.fromkeys(("llarm", "rlarm", "lhand", "rhand"), _LOWER_ARM),
    **dict.fromkeys(("luleg", "ruleg"), _UPPER_LEG),
    **dict.fromkeys(("llleg", "rlleg", "lfoot", "rfoot"), _LOWER_LEG),
}
"""PASCAL-Part's 24 parts of a person, joined to six (Maninis et al. 2019)."""

CONTEXT_LABELS = 459
"""Labels of a LabelMap are 1 to 459, and 0 where there is none."""

NORMALS_LABELS = frozenset((
    3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49, 50, 51, 53, 55, 56, 59,
    61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101, 104, 105, 107, 111, 113, 115, 122, 124, 135,
    141, 142, 143, 146, 150, 154, 157, 158, 159, 165, 172, 174, 181, 183, 184, 191, 193, 195, 197, 199, 202, 213, 215,
    216, 219, 220, 223, 225, 228, 230, 232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261, 263, 269, 272,
    273, 275, 281, 283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314, 315, 319, 323, 329,
    330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 379, 380, 383, 384, 397, 401, 403, 405,
    407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430, 432, 440, 441, 442, 443, 444, 446, 454, 457,
))  # fmt: skip
"""Labels whose name is also a class of NYUD-v2, and `tvmonitor`: the distilled normals were learned on NYUD-v2 and are
trusted on these alone (Maninis et al. 2019)."""
