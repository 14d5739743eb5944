"""Small tables of genes, each row for one difficulty, and what is made of them."""

import gzip

import pandas as pd

from scgp.cells.gene_table import COLUMNS


def gene_id(number):
    return f"ENSG{number:011d}"


# symbol, alias, previous, id, group. What each is for:
HGNC = [
    ("VWF", "F8VWF|VWD", "", 1, "protein-coding gene"),
    ("SEPTIN2", "DIFF6|SHARED", "SEPT2|NEDD5", 2, "protein-coding gene"),
    ("SEPTIN7", "SHARED", "CDC10|SEPT7|OLD", 3, "protein-coding gene"),  # ambiguous alias
    ("OLD", "", "", 4, "non-coding RNA"),  # approved here, previous of SEPTIN7
    ("TWICE1", "", "TWICE", 5, "pseudogene"),  # previous of two genes, in 10x one of them
    ("TWICE2", "", "TWICE", 6, "pseudogene"),
    ("C1orf112", "", "", 7, "protein-coding gene"),
    ("SOD2", "", "", 8, "protein-coding gene"),  # its retired id 80 is in 10x
    ("NOID", "SEPT2X", "", None, "protein-coding gene"),  # 10x knows its id: 9
    ("NOWHERE", "", "", None, "protein-coding gene"),  # nobody knows an id
    ("CLONED", "ALIAS10X", "", 10, "non-coding RNA"),  # 10x gives its alias to 11
    ("LINC1", "", "", 12, "non-coding RNA"),
    ("LINC2", "", "", 12, "non-coding RNA"),  # shares an id with LINC1
    ("TAKEN", "NOWHERE", "", 13, "protein-coding gene"),  # alias is approved elsewhere
    *((f"MT-{name}", "", "", 20 + i, "protein-coding gene") for i, name in enumerate(
        ("ND1", "ND2", "ND3", "ND4", "ND4L", "ND5", "ND6", "ATP6", "ATP8", "CO1", "CO2", "CO3",
         "CYB", "RNR1", "RNR2"))),
    ("PTGS2", "COX2", "", 40, "protein-coding gene"),
]  # fmt: skip
V1, V3, V2020 = "10x_GRCh38-1.2.0?", "10x_GRCh38-3.0.0", "10x_GRCh38-2020-A"
TENX = [
    (1, "VWF", f"{V1}|{V3}|{V2020}"),
    (1, "RP11-1A1.1", V1),  # a clone name of VWF
    (5, "TWICE", V1),
    (80, "SOD2", f"{V3}|{V2020}"),
    (9, "NOID", V2020),
    (11, "ALIAS10X", V3),
    (60, "AC1.1", V1),  # the name moved from gene 60 to 61
    (61, "AC1.1", V2020),
    (62, "BOTH", V2020),  # two genes in one reference
    (63, "BOTH", V2020),
]


def write_tables(folder, hgnc=None, tenx=None):
    rows = ["symbol\talias_symbol\tprev_symbol\tensembl_gene_id\tlocus_group\textra"]
    for symbol, alias, previous, number, group in hgnc or HGNC:
        ensembl = gene_id(number) if number else ""
        rows.append(f"{symbol}\t{alias}\t{previous}\t{ensembl}\t{group}\tx")
    (folder / "hgnc.tsv").write_text("\n".join(rows) + "\n")
    rows = ["ensembl\tsymbol\tref", *(f"{gene_id(i)}\t{s}\t{r}" for i, s, r in tenx or TENX)]
    with gzip.open(folder / "10x.tsv.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")
    return folder / "hgnc.tsv", folder / "10x.tsv.gz"


def table(*rows):
    return pd.DataFrame(list(rows), columns=list(COLUMNS), dtype=str)
