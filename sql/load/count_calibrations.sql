select count(*) as n from calibration
