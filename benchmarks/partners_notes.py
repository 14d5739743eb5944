"""What stands above the tables of the benchmark of partners, and which columns they have."""

NOTES = """NOTES"""

TABLES = [
    (
        "Do genes that move together share processes",
        [("GO", "", "AUROC"), ("GO, as is", "", "AUROC, not centred")],
    ),
    (
        "Are they co-expressed in another study, over pairs of genes",
        [
            ("pairs", "10x", "10x and 10x"),
            ("pairs", "deep", "10x, then deep"),
            ("pairs, beyond", "10x", "10x and 10x, beyond training"),
            ("pairs, beyond", "deep", "10x, then deep, beyond training"),
        ],
    ),
    (
        "The difference between two cell types, over pairs of genes",
        [
            ("difference", "10x", "10x and 10x"),
            ("difference", "deep", "10x, then deep"),
            ("difference, beyond", "10x", "10x and 10x, beyond training"),
            ("difference, beyond", "deep", "10x, then deep, beyond training"),
        ],
    ),
    (
        "Differences of role profiles between two cell types: read in one study, read in another",
        [
            ("roles", "10x", "10x and 10x"),
            ("roles", "deep", "10x and deep"),
            ("roles, other network", "10x", "10x and 10x, another network"),
            ("roles, other network", "deep", "10x and deep, another network"),
            ("roles, rank", "10x", "10x and 10x, rank of the gene"),
            ("roles, rank", "deep", "10x and deep, rank of the gene"),
        ],
    ),
    (
        "Differences of role profiles: read in one study, measured in another",
        [
            ("roles, measured", "10x", "10x and 10x"),
            ("roles, measured", "deep", "10x, then deep"),
            ("roles, measured, rank", "10x", "10x and 10x, rank of the gene"),
            ("roles, measured, rank", "deep", "10x, then deep, rank of the gene"),
        ],
    ),
    (
        "How much a gene's company changes: one number a gene",
        [
            ("gene score", "10x", "10x and 10x"),
            ("gene score", "deep", "10x and deep"),
            ("gene score, other network", "10x", "10x and 10x, another network"),
            ("gene score, other network", "deep", "10x and deep, another network"),
            ("gene score, measured", "10x", "10x, then measured in 10x"),
            ("gene score, measured", "deep", "10x, then measured in deep"),
            ("gene score, GO", "10x", "number of processes, 10x and 10x"),
            ("gene score, GO", "deep", "number of processes, 10x and deep"),
        ],
    ),
]
