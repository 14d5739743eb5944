"""Names of slots, and labels that the tests of annotate(labels=...) ask for."""

LABEL, TERM = "scgp_cell_type", "scgp_cell_type_ontology_term_id"
CONFIDENCE, STATUS = "scgp_confidence", "scgp_status"
LINEAGES = ["B cell", "T cell", "natural killer cell", "monocyte", "dendritic cell"]
B_CELL, T_CELL, MONOCYTE = "CL:0000236", "CL:0000084", "CL:0000576"
KILLER = "cytotoxic lymphocyte that kills tumour cells"
UNSEEN = "ignore:.*no cells in the reference:scgp.errors.ScgpWarning"
