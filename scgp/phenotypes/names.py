"""How the field writes names of cell types: one spelling for many, and what its short names mean.

Owns the rules of spelling and two small tables: abbreviations, and kinds of T cells put together
from words. Knows strings only; `ontology` compares the spellings with its terms. A name is read
where *all* of it is understood: with one word too many ("not", "/", a minus) it is no name.

Left out on purpose: single letters ("B", "T" may be clusters), a marker alone ("CD4+"), and what
fields use differently ("HSC": hematopoietic stem or hepatic stellate cell; "MSC"; "EC").
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

#: Spelling -> term. An entry without "cell" is found with and without that word behind it.
SHORT = {
    "nk": "CL:0000623",  # natural killer cell
    "natural killer": "CL:0000623",  # natural killer cell
    "cd56 nk": "CL:0000623",  # natural killer cell
    "cd16 nk": "CL:0000939",  # CD16-positive, CD56-dim natural killer cell, human
    "cd56 dim nk": "CL:0000939",  # CD16-positive, CD56-dim natural killer cell, human
    "nk cd56 dim": "CL:0000939",  # CD16-positive, CD56-dim natural killer cell, human
    "cd56 bright nk": "CL:0000938",  # CD16-negative, CD56-bright natural killer cell, human
    "nk cd56 bright": "CL:0000938",  # CD16-negative, CD56-bright natural killer cell, human
    "nkt": "CL:0000814",  # mature NK T cell
    "nk t": "CL:0000814",  # mature NK T cell
    "inkt": "CL:0000921",  # type I NK T cell
    "mait": "CL:0000940",  # mucosal-associated invariant T cell
    "mait t": "CL:0000940",  # mucosal-associated invariant T cell
    "gdt": "CL:0000798",  # gamma-delta T cell
    "gd t": "CL:0000798",  # gamma-delta T cell
    "gamma delta t": "CL:0000798",  # gamma-delta T cell
    "alpha beta t": "CL:0000789",  # alpha-beta T cell
    "th1": "CL:0000545",  # T-helper 1 cell
    "th2": "CL:0000546",  # T-helper 2 cell
    "th17": "CL:0000899",  # T-helper 17 cell
    "tfh": "CL:0002038",  # T follicular helper cell
    "ilc": "CL:0001065",  # innate lymphoid cell
    "cd3 t": "CL:0000084",  # T cell
    "cd19 b": "CL:0000236",  # B cell
    "cd20 b": "CL:0000236",  # B cell
    "b naive": "CL:0000788",  # naive B cell
    "b memory": "CL:0000787",  # memory B cell
    "plasma": "CL:0000786",  # plasma cell
    "mono": "CL:0000576",  # monocyte
    "cd14 mono": "CL:0001054",  # CD14-positive monocyte
    "cd16 mono": "CL:0000875",  # non-classical monocyte
    "cd16 monocyte": "CL:0000875",  # non-classical monocyte
    "fcgr3a mono": "CL:0000875",  # non-classical monocyte
    "fcgr3a monocyte": "CL:0000875",  # non-classical monocyte
    "classical mono": "CL:0000860",  # classical monocyte
    "intermediate mono": "CL:0002393",  # intermediate monocyte
    "nonclassical mono": "CL:0000875",  # non-classical monocyte
    "dc": "CL:0000451",  # dendritic cell
    "dendritic": "CL:0000451",  # dendritic cell
    "cdc1": "CL:0002394",  # CD141-positive myeloid dendritic cell
    "dc1": "CL:0002394",  # CD141-positive myeloid dendritic cell
    "cd141 dc": "CL:0002394",  # CD141-positive myeloid dendritic cell
    "cdc2": "CL:0002399",  # CD1c-positive myeloid dendritic cell
    "dc2": "CL:0002399",  # CD1c-positive myeloid dendritic cell
    "cd1c dc": "CL:0002399",  # CD1c-positive myeloid dendritic cell
    "plasmacytoid dc": "CL:0000784",  # plasmacytoid dendritic cell
    "myeloid dc": "CL:0000782",  # myeloid dendritic cell
    "conventional dc": "CL:0000990",  # conventional dendritic cell
    "hspc": "CL:0008001",  # hematopoietic precursor cell
    "clp": "CL:0000051",  # common lymphoid progenitor
    "cmp": "CL:0000049",  # common myeloid progenitor
    "gmp": "CL:0000557",  # granulocyte monocyte progenitor cell
    "eryth": "CL:0000764",  # erythroid lineage cell
    "erythroid": "CL:0000764",  # erythroid lineage cell
    "immune": "CL:0000738",  # leukocyte
    "myeloid": "CL:0000763",  # myeloid cell
    "mast": "CL:0000097",  # mast cell
    "kupffer": "CL:0000091",  # Kupffer cell
    "endothelial": "CL:0000115",  # endothelial cell
    "epithelial": "CL:0000066",  # epithelial cell
    "stromal": "CL:0000499",  # stromal cell
    "smc": "CL:0000192",  # smooth muscle cell
    "opc": "CL:0002453",  # oligodendrocyte precursor cell
    "alpha cell": "CL:0000171",  # pancreatic A cell
    "beta cell": "CL:0000169",  # type B pancreatic cell
    "delta cell": "CL:0000173",  # pancreatic D cell
}

#: What a name of a T cell says -> term. "t" is left out beside "cd4" and "cd8".
T_CELLS = {
    "cd4": "CL:0000624",  # CD4-positive, alpha-beta T cell
    "cd4 naive": "CL:0000895",  # naive thymus-derived CD4-positive, alpha-beta T cell
    "cd4 memory": "CL:0000897",  # CD4-positive, alpha-beta memory T cell
    "cd4 central memory": "CL:0000904",  # central memory CD4-positive, alpha-beta T cell
    "cd4 effector memory": "CL:0000905",  # effector memory CD4-positive, alpha-beta T cell
    "cd4 effector": "CL:0001044",  # effector CD4-positive, alpha-beta T cell
    "cd4 cytotoxic": "CL:0000934",  # CD4-positive, alpha-beta cytotoxic T cell
    "cd4 activated": "CL:0000896",  # activated CD4-positive, alpha-beta T cell
    "cd4 helper": "CL:0000492",  # CD4-positive helper T cell
    "cd4 regulatory": "CL:0000792",  # CD4-positive, CD25-positive, alpha-beta regulatory T cell
    "cd8": "CL:0000625",  # CD8-positive, alpha-beta T cell
    "cd8 naive": "CL:0000900",  # naive thymus-derived CD8-positive, alpha-beta T cell
    "cd8 memory": "CL:0000909",  # CD8-positive, alpha-beta memory T cell
    "cd8 central memory": "CL:0000907",  # central memory CD8-positive, alpha-beta T cell
    "cd8 effector memory": "CL:0000913",  # effector memory CD8-positive, alpha-beta T cell
    "cd8 effector": "CL:0001050",  # effector CD8-positive, alpha-beta T cell
    "cd8 cytotoxic": "CL:0000794",  # CD8-positive, alpha-beta cytotoxic T cell
    "cd8 activated": "CL:0000906",  # activated CD8-positive, alpha-beta T cell
    "cd8 regulatory": "CL:0000795",  # CD8-positive, alpha-beta regulatory T cell
    "t naive": "CL:0000898",  # naive T cell
    "t memory": "CL:0000813",  # memory T cell
    "t effector": "CL:0000911",  # effector T cell
    "t cytotoxic": "CL:0000910",  # cytotoxic T cell
    "t helper": "CL:0000912",  # helper T cell
    "t regulatory": "CL:0000815",  # regulatory T cell
}

#: A word of a T cell's name -> what it says.
_SAYS = {
    **{word: word for word in ("cd4", "cd8", "t", "naive", "memory", "central")},
    **{word: word for word in ("effector", "cytotoxic", "regulatory", "activated", "helper")},
    "cell": "", "lymphocyte": "", "alpha beta": "", "alphabeta": "", "mem": "memory",
    "cm": "central memory", "em": "effector memory", "reg": "regulatory",
    "tcm": "t central memory", "tem": "t effector memory", "teff": "t effector",
    "treg": "t regulatory", "ctl": "t cytotoxic",
}  # fmt: skip
_T_CELLS = {frozenset(key.split()): term for key, term in T_CELLS.items()}
# CD8-positive, CD25-positive, alpha-beta regulatory T cell: with CD8 the marker does say more
_T_CELLS[frozenset({"cd8", "cd25", "regulatory"})] = "CL:0000919"

#: What a name of a T cell says -> markers that such cells carry or lack by definition: named beside
#: it, as the gates of a sorter are ("CD4+/CD45RO+ Memory"), they say nothing more.
_CARRIES = {
    "": {"cd3"},
    "naive": {"cd45ra", "cd45ro-negative", "cd25-negative", "ccr7", "cd62l"},
    "memory": {"cd45ro", "cd45ra-negative", "cd25-negative"},
    "central memory": {"ccr7", "cd62l"},
    "effector memory": {"ccr7-negative", "cd62l-negative"},
    "regulatory": {"cd25", "cd25-high", "foxp3", "cd127-negative", "cd127-low", "cd127-dim"},
}
#: The word of a lineage, which beside "naive" or "memory" says no more than the lineage: a naive
#: CD8 T cell kills nothing yet.
_OF_LINEAGE = {"cd4": "helper", "cd8": "cytotoxic"}

#: Names of the tables, written out, to be compared with what is none.
WRITTEN = SHORT | {f"{key.removeprefix('t ')} t cell": term for key, term in T_CELLS.items()}

#: Names that the ontology gives to thymocytes, and authors to T cells of blood: not read.
_DISPUTED = frozenset({"cd4 negative cd8 negative t cell", "double negative t cell"})

_GREEK = {0x3B1: "alpha ", 0x3B2: "beta ", 0x3B3: "gamma ", 0x3B4: "delta "}
_LEVELS = {"neg": "negative", "pos": "positive", "hi": "high", "lo": "low"}
_LEVEL = r"(?:positive|negative|bright|dim|high|low)"
_RULES = [
    (re.compile(pattern), to)
    for pattern, to in (
        (r"[\u2010-\u2014\u2212]", "-"),
        (r"_", " "),
        (r", human$", ""),
        # between the gates of one sort, each with its sign: "CD4+/CD25", but not "CD4/CD8"
        (r"(?<=[a-z0-9][+-])/(?=cd\d)", " "),
        # a minus behind a word, before the end, a blank or a further marker: "CD4- T", "CD16-CD56+"
        (r"(?<=[a-z0-9])-(?=\s|$|,|cd\d)", " negative "),
        (r"\b(cd\d+[a-z]?)-?(neg|pos|bright|dim|high|hi|low|lo)\b", r"\1 \2 "),
        # only behind what reads as a marker: the plus of "NK+T cells" is an "and"
        (r"\b([a-z]+\d+[a-z]*)\+", r"\1 positive "),
        (r"\b(cd[48])(t|tcm|tem|treg)s?\b", r"\1 \2"),
        (r"-", " "),
        (rf"\b({_LEVEL}),", r"\1"),
        (r"\bnon (?=classic)", "non"),
        (r"([,/&;()\[\]?!.:+])", r" \1 "),
    )
]


def spelling(name: str) -> str:
    """Return one spelling for the many in which a name is written.

    Without regard to case, hyphens, plurals, accents, Greek letters, a last ", human", and whether
    a marker is "CD4", "CD4+" or "CD4-positive". What is negative stays so, and what joins two names
    ("/", "&", a comma, a plus between cells) stays as it is; a "/" between markers with their signs
    joins none.

    Examples
    --------
    >>> spelling("CD4+ T-cells"), spelling("CD4-positive T cell")
    ('cd4 t cell', 'cd4 t cell')
    >>> spelling("CD4- T cell"), spelling("T/NK cells")
    ('cd4 negative t cell', 't / nk cell')
    >>> spelling("CD4+/CD45RA+/CD25- Naive T")
    'cd4 cd45ra cd25 negative naive t'
    """
    letters = unicodedata.normalize("NFKD", name).casefold().translate(_GREEK)
    text = "".join(letter for letter in letters if not unicodedata.combining(letter))
    for pattern, to in _RULES:
        text = pattern.sub(to, text)
    words = [_LEVELS.get(word, word) for word in map(_singular, text.split())]
    before = ["", *words]
    kept = (w for b, w in zip(before, words, strict=False) if w != "positive" or not _is_marker(b))
    return " ".join(kept)


def _singular(word: str) -> str:
    """Take the s of a plural away; made for comparing, so that "virus" may lose none."""
    return word[:-1] if len(word) > 2 and re.search(r"[^sui]s$", word) else word


def _is_marker(word: str) -> bool:
    """Whether a word is a marker, such as "cd4": letters and a number."""
    return re.fullmatch(r"[a-z]+\d+[a-z]*", word) is not None


def short_name(spelled: str) -> str:
    """Return the term that a spelling stands for by the tables of this file, or "".

    Examples
    --------
    >>> short_name(spelling("naive CD4+ T cells")), short_name(spelling("CD8 TEM"))
    ('CL:0000895', 'CL:0000913')
    >>> short_name(spelling("CD4+/CD45RO+ Memory")), short_name(spelling("CD4+/CD45RA+ Memory"))
    ('CL:0000897', '')
    >>> short_name(spelling("cycling CD4 T cell")), short_name(spelling("CD4+ monocyte"))
    ('', '')
    """
    bare = spelled.removesuffix(" cell")
    return SHORT.get(spelled) or SHORT.get(bare) or _t_cell(spelled)


def _t_cell(spelled: str) -> str:
    """Read a T cell's name word by word, in any order; "" where one word says something else."""
    text = re.sub(rf" (?={_LEVEL}\b)", "-", spelled.replace("alpha beta", "alphabeta"))
    said: set[str] = set()
    markers: set[str] = set()
    for word in text.split():
        if word in _SAYS:
            said.update(_SAYS[word].split())
        elif _is_marker(word.partition("-")[0]):
            markers.add(word)
        else:
            return ""
    carried = (marked for key, marked in _CARRIES.items() if said >= set(key.split()))
    if said in ({"cd4"}, {"cd8"}) or not markers <= set().union(*carried):  # a gate, or a gene
        return ""
    lineages = {"cd4", "cd8"} & said
    if said & {"naive", "memory"}:
        said -= {_OF_LINEAGE[lineage] for lineage in lineages}
    key = frozenset(said - {"t"} if lineages else said)
    return _T_CELLS.get(key | markers) or _T_CELLS.get(key, "")


def long_name(spelled: str, names: Mapping[str, str]) -> str:
    """Return the term of a spelled name of the ontology, or ""; "memory B" is "memory B cell".

    ``names`` are spellings and their terms.
    """
    full = f"{spelled} cell" if spelled.endswith((" b", " t", " nk")) else spelled
    return "" if full in _DISPUTED else names.get(full, "")


def nearest(spelled: str, names: Collection[str], *, n: int = 3) -> list[str]:
    """Return up to ``n`` of the spelled names that are nearly the one given, the nearest first.

    Near is a name that has the word "cell" more, or of the same markers and most of the same words,
    or nearly the same letters. Nothing is near to what joins two names, or denies one.
    """
    words = set(spelled.split())
    if words & {*"/&+,;", "and", "or", "no", "non", "not", "negative", "without"}:
        return []
    markers = set(filter(_is_marker, words))
    pool = {
        x.removesuffix(" cell"): x for x in names if set(filter(_is_marker, x.split())) == markers
    }
    bare, score = spelled.removesuffix(" cell"), {}
    for name in difflib.get_close_matches(bare, pool, n=4 * n, cutoff=0.85):
        score[pool[name]] = difflib.SequenceMatcher(None, name, bare).ratio()
    for name in pool.values():
        both = set(name.split())
        shared = len(words & both) / len(words | both)
        if shared >= 0.6 and words & both - {"cell"}:
            score[name] = max(shared, score.get(name, 0.0))
    if f"{spelled} cell" in names:
        score[f"{spelled} cell"] = 1.0
    return sorted(score, key=lambda name: (-score[name], len(name), name))[:n]


def only_owners(names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return spelling -> term of pairs of name and term, where one term alone is so spelled."""
    owners: dict[str, set[str]] = {}
    for name, term in names:
        owners.setdefault(spelling(name), set()).add(term)
    return {name: next(iter(terms)) if len(terms) == 1 else "" for name, terms in owners.items()}


def told(read: Iterable[tuple[str, str]], disputed: Iterable[tuple[str, str, str]]) -> str:
    """Return what to say of names that were read as terms.

    Parameters
    ----------
    read
        No names of the ontology: as written, and the term.
    disputed
        Names of the ontology that authors use for another term: as written, the ontology's term,
        and the authors'.
    """
    parts = "; ".join(f"{name!r} as {term}" for name, term in read)
    said = [f"no names of the ontology, but read as authors use them: {parts}"] if parts else []
    said += [
        f"{name!r} is read as {term}, of which it is a synonym in the ontology; most authors call "
        f"{other} so: name the one that you mean"
        for name, term, other in disputed
    ]
    return ". ".join(said)
