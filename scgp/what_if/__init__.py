"""What perturb(), biomarkers() and predict_expression() are made of."""
