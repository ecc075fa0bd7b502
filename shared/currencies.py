"""Currencies that may be named in settings and on the command line: the active ones of ISO 4217. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

_CODES = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF
CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL
HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD
MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG
QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD
TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CURRENCIES = frozenset(_CODES.split())
"""Messages take any three letters, so that a currency that is newer than a release can still be spoken of."""


def known(code: str) -> str:
    """The code itself; raises ValueError for one that ISO 4217 does not have."""
    if code not in CURRENCIES:
        raise ValueError(f"{code} is no currency of ISO 4217, such as EUR or USD")
    return code


KnownCurrency = Annotated[str, Field(pattern=r"^[A-Z]{3}$"), AfterValidator(known)]
