"""From a label to an ontology term, its text and its vector."""
