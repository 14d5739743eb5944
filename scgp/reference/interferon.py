"""Genes of the interferon response: what a cell has met, not what it is.

Type I and II interferons raise these in cells of every lineage (Schoggins et al. 2011, Nature 472;
Mostafavi et al. 2016, Cell 164; 84 of the 106 stand in MSigDB's hallmark sets of the two
responses). A reference has them as a difference between types nonetheless: non-classical monocytes
of healthy blood have more of them than classical ones, and a classical monocyte that has met
interferon has more than either. Genes that interferon raises and that are markers of a type, too
(HLA, CD74, FCGR1A, SIGLEC1, LAMP3, IDO1), are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scgp.cells.vocabulary import GeneVocabulary

_NAMES = """
ADAR APOL1 APOL2 APOL3 APOL6 BATF2 BST2 CASP1 CMPK2 CXCL9 CXCL10 CXCL11 DDX60 DDX60L DHX58 DTX3L
EIF2AK2 EPSTI1 ETV7 GBP1 GBP2 GBP3 GBP4 GBP5 HELZ2 HERC5 HERC6 IFI16 IFI27 IFI35 IFI44 IFI44L
IFI6 IFIH1 IFIT1 IFIT2 IFIT3 IFIT5 IFITM1 IFITM2 IFITM3 IRF1 IRF7 IRF9 ISG15 ISG20 LAP3 LGALS3BP
LY6E MX1 MX2 NLRC5 NMI NT5C3A OAS1 OAS2 OAS3 OASL PARP9 PARP10 PARP12 PARP14 PLSCR1 PML PSMB8
PSMB9 PSMB10 PSME1 PSME2 RIGI RNF213 RSAD2 RTP4 SAMD9 SAMD9L SAMHD1 SECTM1 SERPING1 SHISA5 SOCS1
SP100 SP110 STAT1 STAT2 TAP1 TAP2 TDRD7 TMEM123 TNFSF10 TOR1B TRAFD1 TRIM14 TRIM21 TRIM22 TRIM25
TRIM38 TRIM5 UBA7 UBE2L6 USP18 VAMP5 WARS1 XAF1 ZBP1 ZC3HAV1 ZNFX1
"""
STIMULATED = tuple(_NAMES.split())


def stimulated(genes: GeneVocabulary) -> NDArray[np.int64]:
    """Return the columns of these genes in a vocabulary, ascending."""
    column_V = genes.match(STIMULATED).token_of_column
    columns: NDArray[np.int64] = np.unique(column_V[column_V >= 0]).astype(np.int64)
    return columns
